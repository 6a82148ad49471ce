"""The JSON of the Open Inference Protocol's requests: types that both check it and describe it at /docs.

Typed dicts, because Pydantic checks them in half the time that its own classes take.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NotRequired, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema, with_config
from typing_extensions import TypedDict  # Pydantic asks for this one up to Python 3.11

from serve.errors import BadRequest

T = TypeVar("T")

# A number is not a text, and 1 is not true.
strict = with_config(ConfigDict(strict=True))


@strict
class RequestParameters(TypedDict, total=False):
    """The parameters of an inference request."""

    binary_data_output: bool
    timeout: Annotated[int, Field(ge=0, description="microseconds; 0: the server's own limit")] | None


@strict
class InputParameters(TypedDict, total=False):
    """The parameters of the input tensor."""

    # Compared with the bytes after the JSON, which checks more than its type.
    binary_data_size: Annotated[Any, WithJsonSchema({"type": ["integer", "null"], "minimum": 1})]


@strict
class InputTensor(TypedDict):
    """The tensor `image`."""

    name: Literal["image"]
    datatype: Annotated[Literal["UINT8", "BYTES"], Field(description="pixels, or encoded image files")]
    shape: Annotated[
        list[Annotated[int, Field(ge=1)]],
        Field(
            min_length=1,
            max_length=4,
            fail_fast=True,
            description="UINT8: [n, H, W, C], as in the model's metadata; BYTES: [n] or [n, 1]",
        ),
    ]
    parameters: NotRequired[InputParameters | None]
    # Checked while it is converted, all numbers at once.
    data: NotRequired[
        Annotated[
            Any,
            WithJsonSchema(
                {
                    "type": "array",
                    "description": "flat, or nested like the shape; of BYTES, each file as a base64 text",
                    "items": {
                        "anyOf": [
                            {"type": "integer", "minimum": 0, "maximum": 255},
                            {"type": "string", "contentEncoding": "base64"},
                            {"type": "array", "items": {}},
                        ]
                    },
                }
            ),
        ]
    ]


@strict
class OutputParameters(TypedDict, total=False):
    """The parameters of a requested output."""

    binary_data: bool
    classification: Annotated[int, Field(ge=0, description="respond with that many best classes, as text")]


@strict
class RequestedOutput(TypedDict):
    """A tensor to respond with."""

    name: Annotated[
        Literal["logits", "probabilities", "abstained"],
        Field(description="abstained: BOOL [n], whether the best probability is too low or the image unfamiliar"),
    ]
    parameters: NotRequired[OutputParameters | None]


@strict
class InferRequest(TypedDict):
    """The JSON of POST /v2/models/{model}/infer."""

    id: NotRequired[str | None]
    parameters: NotRequired[RequestParameters | None]
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1, fail_fast=True)]
    outputs: NotRequired[Annotated[list[RequestedOutput], Field(max_length=3, fail_fast=True)] | None]


@strict
class IndexRequest(TypedDict, total=False):
    """The JSON of POST /v2/repository/index."""

    ready: Annotated[bool, Field(description="list only the ready models")]


@strict
class LoadRequest(TypedDict, total=False):
    """The JSON of POST /v2/repository/models/{model}/load."""

    parameters: Annotated[dict[str, Any], Field(max_length=0)] | None


@strict
class UnloadRequest(TypedDict):
    """The JSON of POST /v2/repository/models/{model}/unload."""


@dataclass(frozen=True)
class Body(Generic[T]):
    """The JSON of a request.

    Attributes:
        adapter: checks parsed JSON.
        messages: what to tell the client, by the path of the wrong value; `*` stands for an index. A value without a
            message of its own has that of the nearest object or list around it.
    """

    adapter: TypeAdapter[T]
    messages: dict[str, str]

    def check(self, message: Any, **known: Any) -> T:
        """Check parsed JSON.

        Args:
            message: the JSON, parsed.
            known: what the texts in `messages` name besides the wrong value.

        Raises:
            BadRequest: says what is wrong, and what would be right.
        """
        try:
            return self.adapter.validator.validate_python(message)  # type: ignore[no-any-return]
        except ValidationError as error:
            place = error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
        raise self.wrong(message, place, **known)

    def wrong(self, message: Any, place: tuple[int | str, ...], **known: Any) -> BadRequest:
        """Build the error for the wrong value at `place` in the parsed JSON; see `check`."""
        while (path := ".".join("*" if isinstance(part, int) else part for part in place)) not in self.messages:
            place = place[:-1]
        value = message
        for part in place:
            value = value.get(part) if isinstance(value, dict) else value[part]
        return BadRequest(self.messages[path].format(value=f"{value!r:.100}", type=type(value).__name__, **known))

    def schema(self) -> dict[str, Any]:
        """Describe the body as JSON schema, with the schemas of its parts in place of references to them."""
        description = self.adapter.json_schema()
        parts = description.pop("$defs", {})

        def expand(node: Any) -> Any:
            if isinstance(node, list):
                return [expand(entry) for entry in node]
            if not isinstance(node, dict):
                return node
            if "$ref" in node:
                return expand(parts[node["$ref"].rpartition("/")[2]])
            return {key: expand(value) for key, value in node.items()}

        return {key: expand(value) for key, value in description.items()}


OBJECT = {"": "the request must be an object, not {type}"}
INFER = Body(
    TypeAdapter(InferRequest),
    OBJECT
    | {
        "id": "id is {value}; it must be a string",
        "parameters": "parameters must be an object, not {type}",
        "parameters.binary_data_output": "parameter binary_data_output is {value}; valid are true and false",
        "parameters.timeout": "parameter timeout is {value}; it must be a whole number of microseconds",
        "inputs": "inputs must be a list with the one tensor 'image'",
        "inputs.*.name": "input {value} is unknown; valid is 'image'",
        "inputs.*.datatype": "datatype of 'image' is {value}; valid are 'UINT8' and 'BYTES'",
        "inputs.*.shape": "shape of 'image' is {value}; valid is {shape}",
        "inputs.*.parameters": "parameters of 'image' must be an object, not {type}",
        "outputs": "outputs must be a list of at most three tensors",
        "outputs.*": "an output must be an object, not {type}",
        "outputs.*.name": "output {value} is unknown; valid are logits, probabilities, abstained",
        "outputs.*.parameters": "parameters of an output must be an object, not {type}",
        "outputs.*.parameters.binary_data": "parameter binary_data is {value}; valid are true and false",
        "outputs.*.parameters.classification": "parameter classification is {value}; it must be a whole number of "
        "classes",
    },
)
INDEX = Body(TypeAdapter(IndexRequest), OBJECT | {"ready": "ready is {value}; valid are true and false"})
LOAD = Body(
    TypeAdapter(LoadRequest),
    OBJECT | {"parameters": "load takes no parameters: the model comes from the server's folder as it is"},
)
UNLOAD = Body(TypeAdapter(UnloadRequest), OBJECT)
