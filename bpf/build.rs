//! Compiles every `bpf/*.bpf.c`, links them into one object and generates its Rust skeleton.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail};
use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::Linker;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=NETMON_CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
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

    let linked = out.join("netmon.bpf.o");
    let mut linker = Linker::new(&linked).context("start linking netmon.bpf.o")?;
    for source in &sources {
        let object = out.join(source.file_name().context("source name")?).with_extension("o");
        compile(source, &object, &clang)
            .with_context(|| format!("compile {} (packages: clang linux-libc-dev)", source.display()))?;
        linker.add_file(&object).with_context(|| format!("link {}", object.display()))?;
    }
    linker.link().context("link netmon.bpf.o")?;
    SkeletonBuilder::new().obj(&linked).generate(out.join("netmon.skel.rs")).context("generate the skeleton")
}

fn compile(source: &Path, object: &Path, clang: &str) -> Result<()> {
    let mut arguments = vec![
        "-mcpu=v3".to_string(),
        "-Wall".into(),
        "-Wextra".into(),
        "-Werror".into(),
        "-Wno-unused-parameter".into(),
        "-Ibpf/include".into(),
        // Blocks stay in source order: placed for speed, a loop's latch may fall through into its
        // header, and older kernels (6.1) allow an edge back only to a jump.
        "-mllvm".into(),
        "-disable-block-placement".into(),
        // No path of the building machine in the object.
        format!("-ffile-prefix-map={}=.", env::current_dir()?.display()),
    ];
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
