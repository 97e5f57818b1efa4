"""torchrun that ends as its workers do: `python run_scripts/torchrun.py [options of torchrun]`.

Its status is theirs, 130 or 143 after a signal, and their last line is the last one; torchrun's own is 1, under a
traceback. What it does with signals is set in the environment (`launch.sh`).

Several nodes meet at node 0 (`--rdzv_backend static`): NODE_RANK orders the ranks, and only node 0 has to be reached by
its name. The c10d rendezvous would order them by host names, and keep the run's store on whichever comes first, under
the name that this machine gives itself.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there are workers
    level = os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"  # in this process: nodes that do not come are a page of C++

import psutil  # type: ignore[import-untyped]
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main, parse_args

WAIT = "timeout=300"  # seconds in which all nodes have to come


def choose_interface(host: str, port: int, on_cpu: bool) -> None:
    """Let gloo talk over the interface that leads to node 0, unless the environment names one.

    By itself it takes the address that this machine's own name has, which on many is a loopback.
    """
    if os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as one:
        one.connect(address)  # sends nothing
        own = one.getsockname()[0]
    if ipaddress.ip_address(own).is_loopback and host not in ("localhost", own):
        if on_cpu:
            sys.exit(
                f"error: HEAD={host} is {own} on this machine (/etc/hosts), where no other node finds it; give HEAD "
                "the address of node 0 in the network, or set GLOO_SOCKET_IFNAME to the interface (ip -br addr)"
            )
        return
    addresses = ((name, one.address) for name, found in psutil.net_if_addrs().items() for one in found)
    # A link-local address of IPv6 has its interface behind it in one of the two lists, or in both.
    names = (name for name, address in addresses if address.partition("%")[0] == own.partition("%")[0])
    os.environ["GLOO_SOCKET_IFNAME"] = next(names)


if __name__ == "__main__":
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)  # each signal, passed to each worker
    os.environ["TORCH_CPP_LOG_LEVEL"] = level
    os.environ.setdefault("PET_RDZV_CONF", WAIT)
    options = parse_args(sys.argv[1:])  # type: ignore[no-untyped-call]
    nodes, endpoint, node = options.nnodes, options.rdzv_endpoint, options.node_rank
    try:
        if nodes != "1:1":
            head, _, head_port = endpoint.rpartition(":")
            choose_interface(head, int(head_port), "--use_cpu" in options.training_script_args)
        main()
    except SignalException as stopped:
        sys.exit(130 if stopped.sigval == signal.SIGINT else 143)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            sys.exit(f"error: rank {rank} was ended by {failure.signal_name()}")
        if failure.exitcode == 1 and nodes != "1:1":
            print(
                f"node {node} of {nodes} ends; where no line above says why, another node's output does",
                file=sys.stderr,
            )
        sys.exit(failure.exitcode)
    except (DistError, socket.gaierror) as error:
        if nodes == "1:1":
            raise
        sys.exit(
            f"error: node {node} of {nodes} does not meet the others at HEAD={endpoint} ({options.rdzv_conf}): "
            f"{str(error).splitlines()[0].rstrip('.')}. Start the script on all nodes with the same NODES, HEAD and "
            "RUN_NAME, NODE_RANK 0 on HEAD's own machine; PET_RDZV_CONF=timeout=SECONDS waits longer"
        )
