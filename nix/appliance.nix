# A host that does nothing but watch itself: boots from one image (UEFI), has no bootloader to manage, no users who log in, no Nix.
# `appliance` is for x86_64, `appliance-ARCHITECTURE` for each.
{
  self,
  nixpkgs,
  systems,
}:
let
  inherit (nixpkgs) lib;
  of =
    system:
    lib.nixosSystem {
      modules = [
        self.nixosModules.default
        "${nixpkgs}/nixos/modules/profiles/minimal.nix"
        "${nixpkgs}/nixos/modules/image/repart.nix"
        appliance
        { nixpkgs.hostPlatform = system; }
      ];
    };

  appliance =
    {
      config,
      lib,
      pkgs,
      ...
    }:
    let
      inherit (pkgs.stdenv.hostPlatform) efiArch;
    in
    {
      services.netmon = {
        enable = true;
        openFirewall = true;
        settings.export.prometheus.address = "0.0.0.0";
      };

      networking = {
        hostName = "netmon";
        useNetworkd = true;
      };
      nix.enable = false;
      users.mutableUsers = false;
      # Nobody logs in: the host is what its image says.
      users.allowNoPasswordLogin = true;
      system.stateVersion = "26.05";

      boot = {
        loader.grub.enable = false;
        initrd = {
          systemd.enable = true;
          # The disks of virtual machines, which NixOS leaves to a hardware scan; SATA and NVMe are there by default.
          availableKernelModules = [
            "virtio_pci"
            "virtio_mmio"
            "virtio_blk"
            "virtio_scsi"
            "virtio_net"
          ]
          ++ lib.optionals pkgs.stdenv.hostPlatform.isx86_64 [
            "hv_storvsc"
            "vmw_pvscsi"
          ];
        };
        kernelParams = [ "console=${if efiArch == "aa64" then "ttyAMA0" else "ttyS0"}" ];
      };
      fileSystems."/" = {
        device = "/dev/disk/by-partlabel/root";
        fsType = "ext4";
      };

      image.repart = {
        name = "netmon-appliance";
        partitions = {
          esp = {
            contents = {
              "/EFI/BOOT/BOOT${lib.toUpper efiArch}.EFI".source =
                "${pkgs.systemd}/lib/systemd/boot/efi/systemd-boot${efiArch}.efi";
              "/EFI/Linux/${config.system.boot.loader.ukiFile}".source =
                "${config.system.build.uki}/${config.system.boot.loader.ukiFile}";
            };
            repartConfig = {
              Type = "esp";
              Format = "vfat";
              SizeMinBytes = "128M";
            };
          };
          root = {
            storePaths = [ config.system.build.toplevel ];
            repartConfig = {
              Type = "root";
              Format = "ext4";
              Label = "root";
              Minimize = "guess";
            };
          };
        };
      };
    };

  each = lib.listToAttrs (
    map (system: lib.nameValuePair "appliance-${lib.removeSuffix "-linux" system}" (of system)) systems
  );
in
each // { appliance = each.appliance-x86_64; }
