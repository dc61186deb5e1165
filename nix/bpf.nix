# The object with all kernel programs, and the one for kernels without BTF. They hold nothing of the machine that builds it (CO-RE, no paths), so every
# architecture's agent takes those that the building machine makes.
{
  lib,
  stdenvNoCC,
  rustPlatform,
  llvmPackages,
  bpftools,
  linuxHeaders,
}:
let
  source = import ./source.nix { inherit lib; };
  # The wrapper's hardening flags are not for BPF.
  clang = llvmPackages.clang-unwrapped;
in
stdenvNoCC.mkDerivation {
  pname = "netmon-bpf";
  inherit (source.package) version;
  src = source.bpf;

  # libbpf's headers come from the crate that loads the object.
  cargoDeps = rustPlatform.importCargoLock { lockFile = ../Cargo.lock; };
  nativeBuildInputs = [ bpftools ];

  buildPhase = ''
    runHook preBuild
    mkdir headers
    ln -s "$(echo "$cargoDeps"/libbpf-sys-*/libbpf/src)" headers/bpf
    mapfile -t flags < <(grep -v '^#' bpf/clang-flags)
    # As bpf/build.rs does: the second one is for kernels without BTF.
    for object in netmon netmon-plain; do
      mkdir "$object"
      [ "$object" = netmon ] || flags+=(-DNM_WITHOUT_BTF)
      for source in bpf/*.bpf.c; do
        ${clang}/bin/clang "''${flags[@]}" -g -O2 -target bpf -fno-stack-protector \
          -ffile-prefix-map="$PWD"=. -Iheaders -nostdlibinc \
          -idirafter ${lib.getLib clang}/lib/clang/*/include -idirafter ${linuxHeaders}/include \
          -c "$source" -o "$object/$(basename "$source" .bpf.c).o"
      done
      bpftool gen object "$object.bpf.o" "$object"/*.o
    done
    runHook postBuild
  '';
  installPhase = ''
    runHook preInstall
    install -D -m 644 -t "$out/lib/netmon" netmon.bpf.o netmon-plain.bpf.o
    runHook postInstall
  '';
  # strip knows nothing of BTF.
  dontFixup = true;

  meta = {
    description = "Kernel programs of NetMon";
    license = lib.licenses.gpl2Only;
    platforms = lib.platforms.linux;
  };
}
