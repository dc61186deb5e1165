{ self, pkgs }:
let
  inherit (pkgs) lib;
  static = import ./static.nix { inherit (pkgs) lib pkgsCross; };
  images = pkgs.callPackage ./images.nix { inherit static; };
  inherit (pkgs.stdenv.hostPlatform.parsed) cpu;
in
{
  inherit (pkgs) netmon netmon-bpf;
  default = pkgs.netmon;
  netmon-x86_64-musl = static.x86_64;
  netmon-aarch64-musl = static.aarch64;

  image = images.of [ cpu.name ];
  image-multiarch = images.of (lib.attrNames static);

  helm-chart = pkgs.callPackage ./helm-chart.nix { };
  manifests = pkgs.callPackage ./manifests.nix { };

  appliance = self.nixosConfigurations."appliance-${cpu.name}".config.system.build.image;
}
