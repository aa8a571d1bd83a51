"""A stack with one multi-model endpoint, as `cdk deploy -c NAME=VALUE` chooses it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk

from multi_model_endpoint.choices import Alarms, ChoiceError, Instances
from multi_model_endpoint.endpoint import MultiModelEndpoint
from multi_model_endpoint.exceptions import except_the_cdks_own
from multi_model_endpoint.image import Image

if TYPE_CHECKING:
    from constructs import Construct

__all__ = ["MultiModelEndpointStack"]

_HERE = Path(__file__).resolve().parents[1]


class MultiModelEndpointStack(cdk.Stack):
    """The stack that README.md deploys.

    Parameters
    ----------
    scope, construct_id
        As for every stack; the choices are in the app's context.

    Raises
    ------
    ChoiceError
        One of them cannot be.
    """

    def __init__(self, scope: Construct, construct_id: str, **more: Any) -> None:
        super().__init__(scope, construct_id, **more)
        archives = Path(self._choice("archives", str(_HERE / "models")))
        self.serving = MultiModelEndpoint(
            self,
            "Serving",
            endpoint_name=self._choice("endpoint_name", "multi-model-cdk"),
            image=self._image(),
            archives=archives,
            prefix=self._choice("prefix", "models"),
            layers=self._layers(archives),
            instances=Instances(
                type=self._choice("instance_type", Instances.type),
                least=self._number("min_instances", Instances.least),
                most=self._number("max_instances", Instances.most),
                invocations=self._number("invocations_per_instance", Instances.invocations),
            ),
            metrics=self._choice("metrics", "none"),
            alarms=Alarms(topic_arn=self._choice("alarm_topic_arn", "") or None),
        )
        except_the_cdks_own(self, self.serving.bucket)

    def _image(self) -> Image:
        uri, folder = self._choice("image_uri", ""), self._choice("image_directory", "")
        if uri and folder:
            raise ChoiceError("Choose image_uri or image_directory, not both.")
        if folder:
            return Image.built(self, Path(folder))
        return Image.named(self, uri) if uri else Image.published(self)

    def _layers(self, archives: Path) -> Path | None:
        """Return the folder that was chosen, or the one that packing leaves beside archives."""
        chosen = self._choice("layers", "")
        if chosen:
            return Path(chosen)
        beside = archives / "layers"
        return beside if beside.is_dir() else None

    def _choice(self, name: str, default: str) -> str:
        given = self.node.try_get_context(name)
        return default if given is None else str(given)

    def _number(self, name: str, default: int) -> int:
        text = self._choice(name, str(default))
        try:
            return int(text)
        except ValueError as error:
            raise ChoiceError(f"{name} is {text!r}; choose a whole number.") from error
