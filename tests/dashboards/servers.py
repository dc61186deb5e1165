"""Answers DNS (53), HTTP (8080; /broken fails) and a service that resets whoever talks to it (84)."""
import http.server, socket, struct, threading

def dns():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", 53))
    while True:
        q, a = s.recvfrom(512)
        if q[13:19] != b"silent":
            s.sendto(q[:2] + struct.pack(">HHHHH", 0x8180, 1, 0, 0, 0) + q[12:], a)

def resets():
    l = socket.create_server(("", 84))
    while True:
        c = l.accept()[0]
        c.recv(64)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()

class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(500 if self.path == "/broken" else 200)
        self.send_header("Content-Length", "9000")
        self.end_headers()
        self.wfile.write(b"x" * 9000)
    def log_message(self, *_):
        pass

for job in dns, resets:
    threading.Thread(target=job, daemon=True).start()
http.server.ThreadingHTTPServer(("", 8080), Web).serve_forever()
