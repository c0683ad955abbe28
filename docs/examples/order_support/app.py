"""The app: what a worker runs, by `millstream worker --app docs/examples/order_support/app.py`."""

from millstream import App
from order_support.layers import OneAtATime
from order_support.tools import find_order, refund_order

app = App(
    "order_support",
    templates=["support.yaml"],
    tools=[find_order, refund_order],
    layers=[OneAtATime],
    policy="policy.yaml",
)
