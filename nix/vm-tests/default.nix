# Machines that run the agent for real. What they check stands in scripts that run without Nix, too: tests/scenarios/flows
# (tests/scenarios/run) and tests/systemd.
{ self, pkgs }:
let
  inherit (pkgs) lib;
  test =
    file: arguments: pkgs.testers.runNixOSTest (import file ({ inherit self lib; } // arguments));
  kernels = {
    "5_10" = pkgs.linuxPackages_5_10;
    "5_15" = pkgs.linuxPackages_5_15;
    "6_1" = pkgs.linuxPackages_6_1;
    "6_6" = pkgs.linuxPackages_6_6;
    "6_12" = pkgs.linuxPackages_6_12;
    latest = pkgs.linuxPackages_latest;
  };
in
{
  nodes = test ./nodes.nix { };
  service = test ./service.nix { };
  k3s = test ./k3s.nix { image = self.packages.${pkgs.stdenv.hostPlatform.system}.image; };
}
// lib.mapAttrs' (
  version: kernelPackages:
  lib.nameValuePair "kernel-${version}" (test ./nodes.nix { inherit version kernelPackages; })
) kernels
