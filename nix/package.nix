{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
  pkg-config,
  pkgsBuildBuild,
  elfutils,
  zlib,
}:
let
  source = import ./source.nix { inherit lib; };
in
rustPlatform.buildRustPackage {
  pname = "netmon";
  inherit (source.package) version;
  src = source.agent;
  cargoLock.lockFile = ../Cargo.lock;
  strictDeps = true;

  env.NETMON_BPF_OBJECT = "${pkgsBuildBuild.netmon-bpf}/lib/netmon/netmon.bpf.o";

  nativeBuildInputs = [
    installShellFiles
    pkg-config
  ];
  buildInputs = [
    elfutils
    zlib
  ];
  # The build script loads the object, to write its Rust skeleton: libbpf-sys is built for the building machine, too.
  depsBuildBuild = lib.optionals (stdenv.buildPlatform != stdenv.hostPlatform) [
    pkgsBuildBuild.stdenv.cc
    pkgsBuildBuild.pkg-config
    pkgsBuildBuild.elfutils
    pkgsBuildBuild.zlib
  ];

  cargoBuildFlags = [
    "--bin=netmon"
    "--bin=netmon-cli"
  ];
  # The others load programs and make network namespaces: vm-tests/ and tests/run.
  cargoTestFlags = [ "--lib" ];

  postInstall = ''
    install -D -m 644 -t "$out/share/netmon" configs/*.yaml
    install -D -m 644 -t "$out/share/licenses/netmon" LICENSE
    install -D -m 644 -t "$out/lib/systemd/system" deploy/systemd/netmon.service
    substituteInPlace "$out/lib/systemd/system/netmon.service" --replace-fail /usr/bin/ "$out/bin/"
  ''
  + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    for program in netmon netmon-cli; do
      installShellCompletion --cmd "$program" \
        --bash <("$out/bin/netmon-cli" completions --program "$program" bash) \
        --fish <("$out/bin/netmon-cli" completions --program "$program" fish) \
        --zsh <("$out/bin/netmon-cli" completions --program "$program" zsh)
    done
    mkdir "$TMPDIR/man"
    "$out/bin/netmon-cli" man "$TMPDIR/man"
    installManPage "$TMPDIR"/man/*
  '';

  meta = {
    inherit (source.package) description;
    license = with lib.licenses; [
      asl20
      gpl2Only
    ];
    mainProgram = "netmon";
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
