"""A service for tests of the supervisor: answers on loopback, and has a helper in a session of its own, as servers do.

python small_service.py PORT [PATH]     with PATH: fails to start while that file is there
"""

import http.server
import subprocess
import sys
from pathlib import Path


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *unused):
        return None


if __name__ == "__main__":
    if len(sys.argv) > 2 and Path(sys.argv[2]).exists():
        sys.exit("can't: it is broken")
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
