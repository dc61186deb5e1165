"""Asks servers.py over and over; asks also where nobody listens (81), where packets are dropped (83) and hosts that are not there."""
import http.client, socket, struct, threading, time

HOST = "10.1.0.2"

def tcp(port, words=b""):
    with socket.create_connection((HOST, port), timeout=1.5) as s:
        s.sendall(words)
        s.recv(64)

def web():
    for path in "/", "/broken":
        c = http.client.HTTPConnection(HOST, 8080, timeout=5)
        c.request("GET", path)
        c.getresponse().read()
        c.close()

def dns():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for name in b"known", b"silent":
            question = bytes([len(name)]) + name + b"\0" + struct.pack(">HH", 1, 1)
            s.sendto(struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + question, (HOST, 53))
        time.sleep(0.1)

def nobody():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", (HOST, 85))
        s.sendto(b"x", ("10.1.0.99", 85))

def over_and_over(job, *arguments):
    while True:
        try:
            job(*arguments)
        except OSError:
            pass
        time.sleep(0.3)

jobs = [(web,), (dns,), (nobody,), (tcp, 81), (tcp, 83), (tcp, 84, b"hello")]
threads = [threading.Thread(target=over_and_over, args=job, daemon=True) for job in jobs]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
