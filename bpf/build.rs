//! Compiles every `bpf/*.bpf.c`, links them into one object and generates its Rust skeleton. The same once more for kernels without BTF
//! (`NM_WITHOUT_BTF`): `netmon-plain.bpf.o`. `NETMON_BPF_OBJECT` names an object that was made already (nix/bpf.nix), with that beside it.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::Linker;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=NETMON_CLANG");
    println!("cargo:rerun-if-env-changed=NETMON_BPF_OBJECT");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let made = env::var_os("NETMON_BPF_OBJECT").map(PathBuf::from);
    for (name, folder, more) in
        [("netmon.bpf.o", "whole", None), ("netmon-plain.bpf.o", "plain", Some("-DNM_WITHOUT_BTF"))]
    {
        let linked = out.join(name);
        match &made {
            Some(made) => {
                let made = made.with_file_name(name);
                fs::copy(&made, &linked).with_context(|| format!("copy {}", made.display()))?;
            }
            None => compile_all(&out.join(folder), &linked, more)?,
        }
    }
    let skeleton = out.join("netmon.skel.rs");
    SkeletonBuilder::new()
        .obj(out.join("netmon.bpf.o"))
        .generate(&skeleton)
        .context("generate the skeleton")?;
    // It opens what src/kernel/skeleton.rs picks.
    let text = fs::read_to_string(&skeleton).context("read the skeleton")?;
    let opened = "ObjectSkeletonConfigBuilder::new(&DATA)";
    ensure!(text.matches(opened).count() == 1, "the skeleton does not say `{opened}` once");
    let text = text.replace(opened, "ObjectSkeletonConfigBuilder::new(fitting(&DATA))");
    fs::write(&skeleton, text).context("write the skeleton")
}

fn compile_all(folder: &Path, linked: &Path, more: Option<&str>) -> Result<()> {
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

    fs::create_dir_all(folder).context("make a folder for objects")?;
    let mut linker = Linker::new(linked).with_context(|| format!("start linking {}", linked.display()))?;
    for source in &sources {
        let object = folder.join(source.file_name().context("source name")?).with_extension("o");
        compile(source, &object, &clang, more)
            .with_context(|| format!("compile {} (packages: clang linux-libc-dev)", source.display()))?;
        linker.add_file(&object).with_context(|| format!("link {}", object.display()))?;
    }
    linker.link().with_context(|| format!("link {}", linked.display()))
}

fn compile(source: &Path, object: &Path, clang: &str, more: Option<&str>) -> Result<()> {
    let flags = fs::read_to_string("bpf/clang-flags").context("read bpf/clang-flags")?;
    let mut arguments: Vec<String> =
        flags.lines().filter(|line| !line.starts_with('#')).chain(more).map(Into::into).collect();
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
