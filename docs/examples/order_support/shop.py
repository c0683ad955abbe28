"""The shop, small: orders in memory, over HTTP. `python -m order_support.shop [PORT]`."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ORDERS = {
    "A-1001": {"customer": "ada", "item": "a kettle", "eur": 39, "state": "delivered"},
    "A-1002": {"customer": "ada", "item": "two mugs", "eur": 18, "state": "on its way"},
    "B-2001": {"customer": "bob", "item": "a lamp", "eur": 59, "state": "delivered"},
}
REFUNDS: dict[str, str] = {}
"""Order numbers by idempotency key."""


class Shop(BaseHTTPRequestHandler):
    """Answers for the customer that `X-Customer` names."""

    def do_GET(self) -> None:
        """Give an order, or all refunds."""
        if self.path == "/refunds":
            self._answer(200, sorted(REFUNDS.values()))
        elif (order := self._order(self.path)) is None:
            self._answer(404, {"error": "the customer has no such order"})
        else:
            self._answer(200, order)

    def do_POST(self) -> None:
        """Refund an order, once for each key."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.removesuffix("/refund")
        order, number = self._order(path), path.rpartition("/")[2]
        key = self.headers.get("Idempotency-Key")
        if key is None:
            self._answer(400, {"error": "a refund needs an Idempotency-Key"})
        elif order is None:
            self._answer(404, {"error": "the customer has no such order"})
        elif REFUNDS.get(key) == number:
            self._answer(200, {"refunded": number})
        elif order["state"] == "refunded":
            self._answer(409, {"error": "it is refunded already"})
        else:
            order["state"] = "refunded"
            REFUNDS[key] = number
            self._answer(200, {"refunded": number})

    def _order(self, path: str) -> dict[str, object] | None:
        order = ORDERS.get(path.removeprefix("/orders/"))
        is_theirs = order is not None and order["customer"] == self.headers.get("X-Customer")
        return order if is_theirs else None

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


def main() -> None:
    """Serve until it is stopped; say where."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8900
    with ThreadingHTTPServer(("127.0.0.1", port), Shop) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
