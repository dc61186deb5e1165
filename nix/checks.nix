{ self, pkgs }:
let
  inherit (pkgs) lib;
  source = import ./source.nix { inherit lib; };
  tests = import ./vm-tests { inherit self pkgs; };
  # The package with another thing to do instead of its build.
  instead =
    name: tool: command:
    pkgs.netmon.overrideAttrs (old: {
      pname = "netmon-${name}";
      src = source.linted;
      nativeBuildInputs = old.nativeBuildInputs ++ [ tool ];
      buildPhase = command;
      doCheck = false;
      installPhase = "touch $out";
    });
in
{
  # With the unit tests.
  build = pkgs.netmon;
  inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) image helm-chart manifests;

  clippy = instead "clippy" pkgs.clippy "cargo clippy --offline --all-targets -- -D warnings";
  fmt = instead "fmt" pkgs.rustfmt "cargo fmt --check";
  nix =
    pkgs.runCommand "netmon-nix"
      {
        nativeBuildInputs = [
          pkgs.nixfmt
          pkgs.deadnix
        ];
      }
      ''
        nixfmt --check ${../flake.nix} $(find ${./.} -name '*.nix')
        deadnix --fail ${../flake.nix} ${./.}
        touch $out
      '';
  module = import ./module-test.nix { inherit self pkgs; };
}
// lib.mapAttrs' (name: lib.nameValuePair "vm-${name}") tests
