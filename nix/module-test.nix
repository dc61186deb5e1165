# services.netmon, evaluated: what it makes of settings, and what it refuses. No machine is started: vm-tests/.
{ self, pkgs }:
let
  inherit (pkgs) lib;
  host =
    modules:
    (self.inputs.nixpkgs.lib.nixosSystem {
      modules = modules ++ [
        self.nixosModules.default
        {
          nixpkgs.pkgs = pkgs;
          services.netmon.enable = true;
          system.stateVersion = "26.05";
        }
      ];
    }).config;
  # Ours alone; a host for a test has no file systems.
  refusals =
    modules:
    map (one: one.message) (
      lib.filter (one: !one.assertion && lib.hasPrefix "services.netmon" one.message)
        (host modules).assertions
    );
  # A kernel that says of itself what we like.
  kernel = says: {
    boot.kernelPackages = lib.mkForce (
      pkgs.linuxPackages.extend (
        _: _: {
          kernel =
            let
              fake = pkgs.linux // says // { override = _: fake; };
            in
            fake;
        }
      )
    );
  };
  full = host [
    {
      services.netmon = {
        openFirewall = true;
        members = [ "alice" ];
        environmentFile = "/run/secrets/netmon.env";
        settings.export.prometheus.port = 9191;
        kubernetes = {
          enable = true;
          kubeconfig = "/etc/kubeconfig";
        };
      };
    }
  ];

  expected = {
    "nothing is refused by default" = refusals [ ] == [ ];
    "an old kernel is" = lib.any (lib.hasInfix "5.4.300 is too old") (refusals [
      (kernel { version = "5.4.300"; })
    ]);
    "and one without BTF" = lib.any (lib.hasInfix "no BTF") (refusals [
      (kernel { configfile.structuredConfig.DEBUG_INFO_BTF.tristate = "n"; })
    ]);
    "unless a file has its types" =
      refusals [
        (kernel { configfile.structuredConfig.DEBUG_INFO_BTF.tristate = "n"; })
        { services.netmon.btf = "/etc/netmon/vmlinux.btf"; }
      ] == [ ];
    "and a firewall to open for nothing" = lib.any (lib.hasInfix "nothing to open") (refusals [
      {
        services.netmon.openFirewall = true;
        services.netmon.settings.export.prometheus.enabled = false;
      }
    ]);
    "and Kubernetes without a way to it" = lib.any (lib.hasInfix "set kubeconfig") (refusals [
      { services.netmon.kubernetes.enable = true; }
    ]);
    "the unit is the package's" = lib.elem pkgs.netmon full.systemd.packages;
    "it starts by itself" = full.systemd.services.netmon.wantedBy == [ "multi-user.target" ];
    "the port is open" = full.networking.firewall.allowedTCPPorts == [ 9191 ];
    "members are members" = full.users.groups.netmon.members == [ "alice" ];
    "the environment's file is read" =
      full.systemd.services.netmon.serviceConfig.EnvironmentFile == "/run/secrets/netmon.env";
    "kubernetes is on" = full.services.netmon.settings.kubernetes.enabled;
    "the unit waits for its kubeconfig" = full.systemd.services.netmon.startLimitIntervalSec == 0;
  };
  failed = lib.attrNames (lib.filterAttrs (_: holds: !holds) expected);
in
assert lib.assertMsg (failed == [ ]) "services.netmon: not so: ${lib.concatStringsSep ", " failed}";
# And built once, which checks the settings by the agent itself.
pkgs.runCommand "netmon-module" { } ''
  grep -q 9191 ${full.environment.etc."netmon/netmon.yaml".source}
  touch $out
''
