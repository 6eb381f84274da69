"""Network interfaces of this machine, and a variable that names another one."""

import socket

import pytest

from pretrain.launching import interfaces as module
from pretrain.launching.interfaces import GLOO_INTERFACE, NCCL_INTERFACE, check_interfaces, check_master, interfaces


@pytest.fixture(autouse=True)
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "interfaces", lambda: {"lo": ["127.0.0.1"], "eth0": ["10.0.0.2"]})


def test_this_machine_has_some() -> None:
    assert all(addresses for addresses in interfaces().values())


@pytest.mark.parametrize(
    ("gpus", "value"), [(False, "eth1"), (False, "eth"), (False, "lo,x"), (True, "ib"), (True, "=e")]
)
def test_an_interface_that_is_not_there_is_named_with_its_variable(gpus: bool, value: str) -> None:
    variable = NCCL_INTERFACE if gpus else GLOO_INTERFACE
    with pytest.raises(ValueError, match=f"^{variable}={value}: .* set it to one of eth0, lo, or unset it$"):
        check_interfaces({variable: value}, gpus)


@pytest.mark.parametrize(
    ("gpus", "value"),
    [(False, "eth0"), (False, "lo,eth0"), (False, ""), (True, "et"), (True, "=lo"), (True, "^x")],
)
def test_those_that_are_there_are_left_alone(gpus: bool, value: str) -> None:
    check_interfaces({NCCL_INTERFACE if gpus else GLOO_INTERFACE: value}, gpus)


def test_the_variable_of_the_other_library_is_not_used() -> None:
    check_interfaces({NCCL_INTERFACE: "nowhere"}, gpus=False)


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError("too long")])
def test_a_master_that_nobody_knows_is_a_mistake(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: object) -> None:
        raise error

    check_master("127.0.0.1")
    monkeypatch.setattr(module.socket, "getaddrinfo", fails)
    with pytest.raises(ValueError, match="^cluster.master=nod0: no such host .* give the address of node 0"):
        check_master("nod0")
    error = socket.gaierror(socket.EAI_AGAIN, "no answer")
    check_master("nod0")
