# What a build reads, and no more: other changes rebuild nothing.
{ lib }:
rec {
  inherit (lib.importTOML ../Cargo.toml) package;
  bpf = only [ ../bpf ];
  agent = only [
    ../Cargo.toml
    ../Cargo.lock
    ../LICENSE
    ../benches
    ../bpf
    ../configs
    ../deploy/systemd
    ../src
    ../tests
    ../rustfmt.toml
  ];
  only =
    files:
    lib.fileset.toSource {
      root = ../.;
      fileset = lib.fileset.unions files;
    };
}
