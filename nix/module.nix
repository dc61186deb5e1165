# services.netmon. The unit is deploy/systemd/netmon.service, as the package brings it; what stands here is added to it.
flake:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.netmon;
  inherit (lib) mkOption types;
  format = pkgs.formats.yaml { };
  inherit (config.boot.kernelPackages) kernel;
  inherit (cfg.settings.export) prometheus;

  written = format.generate "netmon.yaml" (
    lib.filterAttrsRecursive (_: value: value != null) cfg.settings
  );
  # A mistake in the settings fails the build, and the message names the key.
  checked = pkgs.runCommand "netmon.yaml" { } ''
    ${lib.getExe cfg.package} --config ${written} --check-config
    cp ${written} "$out"
  '';
  # Unknown for a kernel that was not configured by nixpkgs.
  kernelBtf = kernel.configfile.structuredConfig.DEBUG_INFO_BTF.tristate or null;
  runsHere = pkgs.stdenv.buildPlatform.canExecute cfg.package.stdenv.hostPlatform;
in
{
  options.services.netmon = {
    enable = lib.mkEnableOption "NetMon, which watches every connection of this host";

    package = mkOption {
      type = types.package;
      default = flake.packages.${pkgs.stdenv.hostPlatform.system}.netmon;
      defaultText = lib.literalExpression "netmon.packages.\${system}.netmon";
      description = "The netmon package to use.";
    };

    settings = mkOption {
      default = { };
      description = ''
        What `/etc/netmon/netmon.yaml` holds; `share/netmon/netmon.yaml` of the package lists all keys with their defaults, units
        and costs. What is wrong fails the build. Secrets do not belong here, as the file is readable by all: see
        {option}`services.netmon.environmentFile`.
      '';
      example = lib.literalExpression ''
        {
          capture.interfaces = [ "eth0" "wlan*" ];
          flow.flow_timeout = "120s";
          features.protocol_detection.dns_names = true;
        }
      '';
      type = types.submodule {
        freeformType = format.type;
        options.export.prometheus = {
          enabled = mkOption {
            type = types.bool;
            default = true;
            description = "Whether metrics are served.";
          };
          address = mkOption {
            type = types.str;
            default = "";
            example = "0.0.0.0";
            description = "Address that metrics are served on. Empty is `127.0.0.1`, and `0.0.0.0` in kubernetes mode.";
          };
          port = mkOption {
            type = types.port;
            default = 9090;
            description = "TCP port that metrics are served on.";
          };
        };
        options.kubernetes.node_name = mkOption {
          type = types.str;
          default = "";
          description = "This node's name in the cluster. Empty: asked from the surroundings.";
        };
      };
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to open the port of the metrics in the firewall. They are served to other hosts only if
        {option}`services.netmon.settings.export.prometheus.address` says so.
      '';
    };

    members = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "alice" ];
      description = ''
        Users who may use {command}`netmon-cli` beside root: members of the group `netmon`, which the control socket belongs to.
        They see all traffic, and may change the running agent.
      '';
    };

    environmentFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/run/secrets/netmon.env";
      description = ''
        File with `NETMON_` variables, one a line, which win over {option}`services.netmon.settings`
        (`NETMON_FLOW_MAX_FLOWS=200000`). It stays out of the Nix store, and is not checked at build time.
      '';
    };

    btf = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/etc/netmon/vmlinux.btf";
      description = ''
        File with the types of this very kernel, for one that is built without `DEBUG_INFO_BTF`. What the kernel itself looks up
        in its BTF stays unknown: packets that it drops, and the processes of sockets that are older than the agent.
      '';
    };

    kubernetes = {
      enable = lib.mkEnableOption "names of pods, workloads and services, for a host that is a node of a Kubernetes cluster";
      kubeconfig = mkOption {
        type = types.nullOr types.path;
        default = null;
        example = "/etc/rancher/k3s/k3s.yaml";
        description = ''
          How to reach the API server. Read as root when the unit starts. It needs `get`, `list` and `watch` of pods, services,
          nodes, EndpointSlices, ReplicaSets and Jobs.
        '';
      };
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = lib.versionAtLeast kernel.version "5.10";
        message = "services.netmon: Linux ${kernel.version} is too old, NetMon needs 5.10. Set boot.kernelPackages to a later one.";
      }
      {
        assertion = kernelBtf != "n" || cfg.btf != null;
        message = ''
          services.netmon: the kernel has no BTF, by which the programs find their way in it. Set DEBUG_INFO_BTF to yes in
          boot.kernelPatches, take a kernel of nixpkgs, or set services.netmon.btf to a file with its types.'';
      }
      {
        assertion = cfg.openFirewall -> prometheus.enabled;
        message = "services.netmon.openFirewall: there is nothing to open, settings.export.prometheus.enabled is false.";
      }
      {
        assertion = cfg.kubernetes.enable -> cfg.kubernetes.kubeconfig != null;
        message = "services.netmon.kubernetes: set kubeconfig, or netmon does not know where the API server is.";
      }
    ];

    services.netmon.settings.kubernetes.enabled = lib.mkDefault cfg.kubernetes.enable;

    environment.systemPackages = [ cfg.package ];
    environment.etc."netmon/netmon.yaml".source = if runsHere then checked else written;
    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall [ prometheus.port ];

    users.users.netmon = {
      isSystemUser = true;
      group = "netmon";
      description = "NetMon";
    };
    users.groups.netmon = { inherit (cfg) members; };

    systemd.packages = [ cfg.package ];
    systemd.services.netmon = {
      wantedBy = [ "multi-user.target" ];
      # k3s writes its kubeconfig some seconds after boot: until then each start fails, and none may be the last one. Loops without hope
      # end by the unit's RestartPreventExitStatus.
      startLimitIntervalSec = lib.mkIf (cfg.kubernetes.kubeconfig != null) 0;
      # The agent takes a changed file over; a reload says whether it is right.
      reloadTriggers = [ config.environment.etc."netmon/netmon.yaml".source ];
      environment = {
        KUBECONFIG = lib.mkIf (cfg.kubernetes.kubeconfig != null) "%d/kubeconfig";
        NETMON_BTF = lib.mkIf (cfg.btf != null) "${cfg.btf}";
      };
      serviceConfig = {
        EnvironmentFile = lib.mkIf (cfg.environmentFile != null) cfg.environmentFile;
        LoadCredential = lib.mkIf (
          cfg.kubernetes.kubeconfig != null
        ) "kubeconfig:${cfg.kubernetes.kubeconfig}";
      };
    };
  };
}
