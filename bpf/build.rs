//! Compiles every `bpf/*.bpf.c`, links them into one object and generates its Rust skeleton. `NETMON_BPF_OBJECT` names an object
//! that was made already (nix/bpf.nix).

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::Linker;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=NETMON_CLANG");
    println!("cargo:rerun-if-env-changed=NETMON_BPF_OBJECT");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let linked = out.join("netmon.bpf.o");
    match env::var_os("NETMON_BPF_OBJECT") {
        Some(made) => {
            fs::copy(&made, &linked).with_context(|| format!("copy {}", made.display()))?;
        }
        None => compile_all(&out, &linked)?,
    }
    SkeletonBuilder::new().obj(&linked).generate(out.join("netmon.skel.rs")).context("generate the skeleton")
}

fn compile_all(out: &Path, linked: &Path) -> Result<()> {
    let clang = env::var("NETMON_CLANG").unwrap_or_else(|_| "clang".into());
    let mut sources: Vec<PathBuf> = fs::read_dir("bpf")
        .context("read bpf/")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.to_string_lossy().ends_with(".bpf.c"))
        .collect();
    sources.sort();
    if sources.is_empty() {
        bail!("no bpf/*.bpf.c found");
    }

    let mut linker = Linker::new(linked).context("start linking netmon.bpf.o")?;
    for source in &sources {
        let object = out.join(source.file_name().context("source name")?).with_extension("o");
        compile(source, &object, &clang)
            .with_context(|| format!("compile {} (packages: clang linux-libc-dev)", source.display()))?;
        linker.add_file(&object).with_context(|| format!("link {}", object.display()))?;
    }
    linker.link().context("link netmon.bpf.o")
}

fn compile(source: &Path, object: &Path, clang: &str) -> Result<()> {
    let flags = fs::read_to_string("bpf/clang-flags").context("read bpf/clang-flags")?;
    let mut arguments: Vec<String> =
        flags.lines().filter(|line| !line.starts_with('#')).map(Into::into).collect();
    // No path of the building machine in the object.
    arguments.push(format!("-ffile-prefix-map={}=.", env::current_dir()?.display()));
    // Debian keeps asm/ in the multiarch folder, which -target bpf does not search.
    if let Some(folder) = fs::read_dir("/usr/include")
        .ok()
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.join("asm/types.h").exists() && path.to_string_lossy().ends_with("-linux-gnu"))
    {
        arguments.push(format!("-idirafter{}", folder.display()));
    }
    SkeletonBuilder::new().source(source).obj(object).clang(clang).clang_args(arguments).build()
}
