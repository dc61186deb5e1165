# Two hosts with the module; one fetches from the other, and both must tell the same of it.
{
  self,
  lib,
  version ? null,
  kernelPackages ? null,
}:
{
  name = "netmon-nodes${lib.optionalString (version != null) "-linux-${version}"}";

  defaults =
    { pkgs, ... }:
    {
      imports = [ self.nixosModules.default ];
      boot.kernelPackages = lib.mkIf (kernelPackages != null) kernelPackages;
      networking.firewall.allowedTCPPorts = [
        8080
        8081
      ];
      services.netmon = {
        enable = true;
        openFirewall = true;
        settings.export.prometheus.address = "0.0.0.0";
      };
      environment.systemPackages = [
        pkgs.python3
        pkgs.wget
      ];
    };

  nodes = {
    client = { };
    server =
      { pkgs, ... }:
      {
        systemd.services.web = {
          wantedBy = [ "multi-user.target" ];
          serviceConfig = {
            ExecStart = "${lib.getExe pkgs.python3} -m http.server --directory /etc 8080";
            DynamicUser = true;
          };
        };
      };
  };

  testScript = ''
    start_all()
    for machine in client, server:
        machine.wait_for_unit("netmon.service")
    server.wait_for_open_port(8080)
    address = client.succeed("getent ahostsv4 server").split()[0]

    print(client.succeed("uname -r; netmon-cli status"))
    print(client.succeed(f"python3 ${../../tests/scenarios/flows} {address}"))

    with subtest("the other end tells the same"):
        print(server.succeed("netmon-cli flows dump --ended --port 8080"))
        server.succeed("netmon-cli --output json flows dump --ended --port 8080 | grep -q '\"unit\": *\"web.service\"'")
        server.succeed("netmon-cli --output json flows dump --ended --port 8081 | grep -q '\"reason\": *\"refused\"'")

    with subtest("metrics, from the other host"):
        client.succeed("wget -q -O - http://server:9090/metrics | grep ^netmon_flows_total >/dev/null")
        client.succeed("wget -q -O /dev/null http://server:9090/readyz")
  '';
}
