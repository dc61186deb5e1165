{
  description = "NetMon: watches every connection of a Linux host or Kubernetes node through eBPF";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      pkgsFor = nixpkgs.lib.genAttrs systems (
        system:
        import nixpkgs {
          inherit system;
          overlays = [ self.overlays.default ];
        }
      );
      perSystem = file: nixpkgs.lib.mapAttrs (_: pkgs: import file { inherit self pkgs; }) pkgsFor;
    in
    {
      packages = perSystem ./nix/packages.nix;
      apps = perSystem ./nix/apps.nix;
      checks = perSystem ./nix/checks.nix;
      devShells = perSystem ./nix/dev-shell.nix;
      formatter = nixpkgs.lib.mapAttrs (_: pkgs: pkgs.nixfmt-tree) pkgsFor;
      overlays.default = import ./nix/overlay.nix;
      nixosModules.default = import ./nix/module.nix self;
      nixosConfigurations = import ./nix/appliance.nix { inherit self nixpkgs systems; };
    };
}
