"""Accelerators simulated on a processor: what mixes devices fails, launches and waits are counted.

A tensor of a simulated device holds its values in an ordinary CPU tensor, and claims to lie on a
device of PyTorch's PrivateUse1 backend, here named `simulated`. Every operation on it is
intercepted: operands on different devices are refused with torch's words, an operation that is not
a view counts as one kernel launch, and whatever makes the host wait for the device is recorded with
the line of layerroles that caused it. The kernels of a real device cannot be seen here: their
speed, memory and rounding, and which of them exist.

A process can set up such a backend once and cannot remove it, so tests that use it run in a process
of their own:

    devices = set_up()
    bridge = random_bridge("llama", n_devices=2)
    with devices:
        engine = lr.Engine(bridge, executor="plain")
        ...
        devices.launches, devices.waits
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, PreTrainedModel

import layerroles as lr
from tests.support.random_models import CONFIGS, make_random, model_path

NAME = "simulated"
_PACKAGE = str(Path(lr.__file__).parent)
_CPU = torch.device("cpu")

# Operations that start no kernel: views, allocations, and questions about a tensor's form.
_FREE = frozenset(
    "view _unsafe_view _reshape_alias expand permute transpose t slice select squeeze unsqueeze "
    "detach alias as_strided split split_with_sizes unbind unfold lift lift_fresh diagonal "
    "empty empty_like empty_strided new_empty new_empty_strided is_pinned".split()
)
# Operations whose result has a size that depends on values, which the host waits for.
_OF_UNKNOWN_SIZE = frozenset(
    "nonzero masked_select _unique _unique2 unique_dim unique_consecutive repeat_interleave".split()
)
_INDEXING = frozenset("index index_put index_put_ _index_put_impl_ _unsafe_index".split())
_COPIES = frozenset(("copy_", "_to_copy"))


class Wait(NamedTuple):
    """A wait of the host for a device: what was asked for, and where in layerroles."""

    what: str
    line: str


class SimulatedTensor(Tensor):
    """A tensor on a simulated device.

    Attributes:
        values: the CPU tensor that holds its values.
    """

    values: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor, device: torch.device) -> "SimulatedTensor":
        """Wrap a CPU tensor, whose memory is shared."""
        # Of a wrapper that is made in inference mode, torch can take no views.
        with torch.inference_mode(False):
            made: SimulatedTensor = Tensor._make_wrapper_subclass(
                cls,
                values.size(),
                strides=values.stride(),
                storage_offset=values.storage_offset(),
                dtype=values.dtype,
                device=device,
            )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(
        cls,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return set_up().run(function, args, dict(kwargs or {}))

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"SimulatedTensor({self.values!r}, device={str(self.device)!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "SimulatedTensor":
        return SimulatedTensor(self.values.clone(), self.device)

    def data_ptr(self) -> int:
        """Return the address of the values, which identifies the memory."""
        return self.values.data_ptr()

    def tolist(self) -> Any:
        """Return the values as nested lists, which waits for the device."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refuse, as torch does for tensors of a GPU."""
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy "
            f"the tensor to host memory first."
        )


class SimulatedDevices(TorchDispatchMode):
    """All simulated devices, and a record of what was run on them; active within `with`.

    Attributes:
        launches: how often each operation was launched.
        waits: waits for a device since `reset`, in order.
        without_float64: indices of devices that have no float64, like Apple's.
        most_bytes: a tensor of more bytes does not fit into a device's memory; None for no limit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: list[Wait] = []
        self.without_float64: set[int] = set()
        self.most_bytes: int | None = None

    def reset(self) -> None:
        """Forget what was run so far."""
        self.launches.clear()
        self.waits.clear()

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.run(function, args, dict(kwargs or {}))

    def run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation on the values of its operands, as the device would.

        Raises:
            RuntimeError: the operands lie on different devices.
            TypeError: float64, on a device that has none.
            torch.OutOfMemoryError: a result of more than `most_bytes`.
        """
        leaves = _leaves((args, kwargs))
        ours = [leaf for leaf in leaves if isinstance(leaf, SimulatedTensor)]
        asked = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
        if not ours and not any(device.type == NAME for device in asked):
            return function(*args, **kwargs)
        if _is_made_of_others(function):
            # In inference mode, operations arrive that are made of others.
            with self:
                made = function.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        name = function.overloadpacket.__name__
        if name not in _COPIES:
            _check_devices(name, args, kwargs)
        self._record(name, args, ours, asked)
        target = asked[0] if asked else ours[0].device
        if name == "copy_":
            target = args[0].device
        if target.type == NAME:
            target = torch.device(NAME, target.index or 0)
        values = _mapped(_on_cpu, (args, kwargs))
        out = function(*values[0], **values[1])
        if name == "_to_copy":
            out = out.clone() if any(out is value for value in _leaves(values)) else out
        return self._wrap(function, args, kwargs, out, target)

    def _record(
        self,
        name: str,
        args: tuple[Any, ...],
        ours: list[SimulatedTensor],
        asked: list[torch.device],
    ) -> None:
        if name not in _FREE and name != "_local_scalar_dense":
            self.launches[name] += 1
        if name == "_local_scalar_dense":
            self._wait("item")
        elif name in _OF_UNKNOWN_SIZE:
            self._wait(name)
        elif name in _INDEXING:
            masks = [one for one in args[1] if one is not None and one.dtype == torch.bool]
            if any(isinstance(mask, SimulatedTensor) for mask in masks):
                self._wait("boolean mask")
            if any(type(one) is Tensor for one in args[1]):
                self._wait("copy to the device")
        elif name in _COPIES:
            source = args[0] if name == "_to_copy" else args[1]
            target = args[0].device if name == "copy_" else (asked or [source.device])[0]
            if target.type != source.device.type:
                self._wait(f"copy to the {'CPU' if target.type == 'cpu' else 'device'}")

    def _wait(self, what: str) -> None:
        self.waits.append(Wait(what, _package_line()))

    def _wrap(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Any,
        target: torch.device,
    ) -> Any:
        """Return an operation's results as tensors on the target; what it wrote to, as itself."""
        results = function._schema.returns
        if len(results) == 1 and results[0].alias_info and results[0].alias_info.is_write:
            return kwargs["out"] if "out" in kwargs else args[0]
        if target.type != NAME:
            return out

        def wrap(leaf: Any) -> Any:
            if type(leaf) is not Tensor:
                return leaf
            if leaf.dtype == torch.float64 and target.index in self.without_float64:
                raise TypeError(
                    f"Cannot convert a {target} Tensor to float64 dtype as the framework doesn't "
                    f"support float64. Please use float32 instead."
                )
            if self.most_bytes is not None and leaf.nbytes > self.most_bytes:
                raise torch.OutOfMemoryError(f"{target} out of memory: {leaf.nbytes} bytes")
            return SimulatedTensor(leaf, target)

        return _mapped(wrap, out)


@cache
def _is_made_of_others(function: Any) -> bool:
    key = "CompositeImplicitAutograd"
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), key))


# The functions of torch for this handle more types, and take most of a simulation's time.
def _leaves(tree: Any) -> list[Any]:
    """Return what tuples, lists and dictionaries hold, at any depth."""
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, tuple | list):
        return [tree]
    return [leaf for part in tree for leaf in _leaves(part)]


def _mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    """Return the same tuples, lists and dictionaries with each leaf changed."""
    if isinstance(tree, tuple | list):
        return type(tree)([_mapped(change, part) for part in tree])
    if isinstance(tree, dict):
        return {key: _mapped(change, part) for key, part in tree.items()}
    return change(tree)


def _check_devices(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Check that operands lie on one device; numbers and indices may lie on the CPU."""
    checked: Any = (args, kwargs)
    if name in _INDEXING:
        at = args[0].device
        for index in args[1]:
            if index is not None and index.device not in (at, _CPU):
                raise RuntimeError(
                    f"indices should be either on cpu or on the same device as the indexed tensor "
                    f"({at})"
                )
        checked = (args[0], args[2:], kwargs)
    tensors = [leaf for leaf in _leaves(checked) if isinstance(leaf, Tensor)]
    devices = {one.device: None for one in tensors if one.ndim or one.device.type == NAME}
    if len(devices) > 1:
        one, two = list(devices)[:2]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{one} and {two}! (in {name}, {_package_line()})"
        )


def _on_cpu(leaf: Any) -> Any:
    if isinstance(leaf, SimulatedTensor):
        return leaf.values
    return _CPU if isinstance(leaf, torch.device) else leaf


def _package_line() -> str:
    """Return file and line of the innermost frame of layerroles: `engine/engine.py:75`."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE):
            return f"{file.removeprefix(_PACKAGE).lstrip('/')}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return "not in layerroles"


_DEVICES: list[SimulatedDevices] = []


def set_up() -> SimulatedDevices:
    """Return the devices of this process; registers their backend with torch at the first call."""
    if not _DEVICES:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

        # `torch.tensor(..., device=)` makes its tensor on the CPU, and moves it by an operation.
        torch._C._set_only_lift_cpu_tensors(True)
        _setup_privateuseone_for_python_backend(NAME)
        # accelerate empties the cache of the allocator, which a simulated device does not have.
        torch.accelerator.empty_cache = lambda: None
        _DEVICES.append(SimulatedDevices())
    return _DEVICES[0]


def device(index: int = 0) -> torch.device:
    """Return a simulated device."""
    return torch.device(NAME, index)


def move(modules: Iterable[nn.Module], index: int, moved: dict[int, Tensor]) -> None:
    """Move modules with all that they contain to a simulated device.

    `moved` maps the `id` of tensors that were moved to their replacements, so that tied weights
    stay tied; it keeps those tensors alive.
    """

    def replacement(tensor: Tensor) -> Tensor:
        if isinstance(tensor, SimulatedTensor):
            return tensor
        if id(tensor) not in moved:
            moved[id(tensor)] = SimulatedTensor(tensor.detach().contiguous(), device(index))
            if isinstance(tensor, nn.Parameter):
                moved[id(tensor)] = nn.Parameter(moved[id(tensor)], requires_grad=False)
        return moved[id(tensor)]

    for module in [inner for outer in modules for inner in outer.modules()]:
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = replacement(tensor)  # type: ignore[assignment]


def spread(model: PreTrainedModel, layer: int) -> None:
    """Move a model to two simulated devices, as `device_map="auto"` does.

    The second holds the layers from `layer` on and what comes after them, but for a head that is
    tied to the embedding.
    """
    path, layers = next(
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers
    )
    parent = path.rpartition(".")[0]
    names = [f"{parent}.{name}" for name, _ in model.get_submodule(parent).named_children()]
    n_before = names.index(path)
    places = {name: device(int(n > n_before)) for n, name in enumerate(names) if name != path}
    places |= {f"{path}.{n}": device(int(n >= layer)) for n in range(len(layers))}
    embedding = model.get_input_embeddings().weight
    for name, module in model.named_children():
        if name != parent:
            is_tied = any(weight is embedding for weight in module.parameters())
            places[name] = device(0 if is_tied else 1)
    moved: dict[int, Tensor] = {}
    for name, place in places.items():
        move([model.get_submodule(name)], place.index, moved)
    model.hf_device_map = {name: str(place) for name, place in places.items()}
    attach_align_device_hook_on_blocks(model, places, skip_keys=model._skip_keys_device_placement)


def random_bridge(
    architecture: str, *, n_devices: int = 1, index: int = 0, seed: int = 0
) -> TransformerBridge:
    """Return a prepared bridge of a random model on simulated devices.

    Args:
        architecture: a key of `CONFIGS`.
        n_devices: 1, or 2 to put all layers but the first on a second one (see `spread`).
        index: the device, if it is one.
        seed: of the weights.
    """
    folder = str(model_path(architecture))
    model = make_random(CONFIGS[architecture], seed)
    model.set_attn_implementation("eager")
    with set_up():
        if n_devices == 1:
            move([model], index, {})
        else:
            spread(model, 1)
        bridge = TransformerBridge.boot_transformers(
            folder,
            hf_model=model.eval(),
            tokenizer=AutoTokenizer.from_pretrained(folder),
            dtype=torch.float32,
            device=device(index) if n_devices == 1 else None,
        )
        return lr.prepare(bridge, name=f"{architecture} on {n_devices}")
