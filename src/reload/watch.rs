//! Noticing that the configuration file has changed.
//!
//! Folders are watched, not the file: editors replace it by renaming, and a ConfigMap's mount renames the symlink `..data` beside
//! it. Whatever happens there, what counts is whether the file's bytes are others than those read last. They are also looked at
//! every half a minute, since other hosts' changes of a network file system are not told, and a folder may be replaced as a whole.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::Signal;

use super::Reloader;
use super::outcome::Cause;

/// A file that stays the same for so long is complete.
const SETTLE: Duration = Duration::from_millis(200);
/// Without being told.
const LOOK: Duration = Duration::from_secs(30);

/// Reloads on change of the file and on SIGHUP, until it is dropped. How a reload went is told by the reloader.
pub async fn follow(reloader: Arc<Reloader>, mut hangups: Signal) {
    let mut watched = reloader.file().map(Watched::new);
    loop {
        tokio::select! {
            hangup = hangups.recv() => {
                if hangup.is_none() {
                    return;
                }
                if let Some(watched) = &mut watched {
                    watched.is_changed();
                }
                // Refusals have been told.
                let _ = reloader.reload(Cause::Signal).await;
            }
            () = changed(&mut watched) => {
                let _ = reloader.reload(Cause::File).await;
            }
        }
    }
}

/// Waits for another content; never ends without a file.
async fn changed(watched: &mut Option<Watched>) {
    match watched {
        Some(watched) => watched.changed().await,
        None => std::future::pending().await,
    }
}

/// A file and its folders.
struct Watched {
    file: PathBuf,
    /// `None` if the kernel gives none (`fs.inotify.max_user_instances`): then it is only looked at.
    inotify: Option<AsyncFd<OwnedFd>>,
    /// What was read last.
    content: Option<Vec<u8>>,
}

impl Watched {
    fn new(file: &Path) -> Self {
        // Deprecated because of descriptors that the owner may close or exchange; an `OwnedFd` can't.
        #[allow(deprecated)]
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(std::io::Error::from)
            .and_then(AsyncFd::new)
            .inspect_err(|error| {
                tracing::warn!(%error, "no inotify: changes of the configuration file are seen within half a minute");
            })
            .ok();
        let watched = Self { file: file.into(), inotify, content: std::fs::read(file).ok() };
        watched.arm();
        watched
    }

    /// Watches the file's folder and, where symlinks lead elsewhere, that of what it is in the end. To do it again changes nothing.
    fn arm(&self) {
        let Some(inotify) = &self.inotify else { return };
        let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let real = std::fs::canonicalize(&self.file).ok();
        for file in [Some(&self.file), real.as_ref()].into_iter().flatten() {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            if let Err(error) = inotify::add_watch(inotify.get_ref(), folder.unwrap_or(Path::new(".")), flags)
            {
                tracing::debug!(%error, file = %file.display(), "its folder can't be watched");
            }
        }
    }

    async fn changed(&mut self) {
        loop {
            // An error is the end of the time: then it is looked at without being told.
            let _ = tokio::time::timeout(LOOK, self.told()).await;
            self.arm();
            // Somebody may be writing it, with the half of it in place: until it is the same for a while.
            let mut seen = std::fs::read(&self.file).ok();
            while seen.is_some() && seen != self.content {
                tokio::time::sleep(SETTLE).await;
                let before = std::mem::replace(&mut seen, std::fs::read(&self.file).ok());
                if before == seen {
                    break;
                }
            }
            if self.is_changed() {
                return;
            }
        }
    }

    /// Waits until something was written, renamed or linked in a folder.
    async fn told(&self) {
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        loop {
            match inotify.readable().await {
                Ok(mut guard) => match guard.try_io(|fd| read(fd.get_ref())) {
                    Ok(Ok(())) => return,
                    Err(_) => {}
                    Ok(Err(_)) => return std::future::pending().await,
                },
                Err(_) => return std::future::pending().await,
            }
        }
    }

    /// Whether the file's bytes are others than before. That it is gone is no change: whoever replaces it in two steps goes on.
    fn is_changed(&mut self) -> bool {
        match std::fs::read(&self.file) {
            Ok(content) if self.content.as_ref() == Some(&content) => false,
            Ok(content) => {
                self.content = Some(content);
                true
            }
            Err(error) => {
                if self.content.take().is_some() {
                    tracing::warn!(
                        %error, file = %self.file.display(),
                        "the configuration file can't be read; the running configuration stays"
                    );
                }
                false
            }
        }
    }
}

/// Empties the queue.
fn read(fd: &OwnedFd) -> std::io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut any = false;
    loop {
        match reader.next() {
            Ok(_) => any = true,
            Err(Errno::AGAIN) if any => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
