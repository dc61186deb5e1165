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
    # Unit tests read these two.
    ../tests/kernels
    ../tests/kubernetes/api
  ];
  # What lints read: the tests that the package's build has no use for, too.
  linted = only [
    ../Cargo.toml
    ../Cargo.lock
    ../benches
    ../bpf
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
