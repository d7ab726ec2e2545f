# [connect]
import os

from bluesky_queueserver import ZMQCommSendThreads

address = os.environ.get("QSERVER_ZMQ_CONTROL_ADDRESS", "tcp://127.0.0.1:60615")
server = ZMQCommSendThreads(zmq_server_address=address)


def ask(method: str, **params: object) -> dict:
    """Ask the manager; say why if it refuses."""
    answer = server.send_message(method=method, params=params)
    if not answer.get("success", True):
        raise RuntimeError(answer["msg"])
    return answer


# [queue]
sweep = {"axis": "phi", "start": 0, "step": 0.5, "n_frames": 6, "exposure": 0.09, "period": 0.1}
plan = {"item_type": "plan", "name": "rotation_scan", "args": [sweep]}
item = ask("queue_item_add", item=plan, user="me", user_group="primary")["item"]
ask("queue_start")
