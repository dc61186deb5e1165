# The unit under NixOS: started, reloaded well and badly, hung, killed, stopped, and how exposed it is. All of it is tests/systemd,
# which runs it under Debian's systemd otherwise.
{ self, lib }:
{
  name = "netmon-service";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ self.nixosModules.default ];
      services.netmon.enable = true;
      environment.systemPackages = [ pkgs.iproute2 ];
      environment.etc = {
        "netmon-test/telemetry.rs".source = ../../src/telemetry.rs;
        "netmon-test/local-only.conf".source = ../../deploy/systemd/local-only.conf;
      };
      # The test starts it.
      systemd.services.netmon.wantedBy = lib.mkForce [ ];
    };

  testScript = ''
    machine.wait_for_unit("multi-user.target")
    said = machine.succeed("bash ${../../tests/systemd} inside 2>&1", timeout=600)
    print(said)
    assert "== passed" in said, "tests/systemd has failed"
  '';
}
