"""What can go wrong, as one tree.

```
AttributionError
├─ InputError(ValueError)                  shapes, dtypes, NaN, empty, too long: before the model is run
├─ TargetError(AssertionError, IndexError) after the forward, with the model restored
├─ UnknownModelError                       read-out or grid cannot be known; the message shows the arguments to give
├─ CaptureError
│  ├─ NothingCapturedError                 no attention call was seen
│  └─ UnsupportedAttentionError            attention was seen that this method cannot follow
├─ UnsupportedOperationError               an operation without a relevance rule
└─ MissingDependencyError(ImportError)     an optional library is absent; names the extra
```

Every message says what was expected, what was found and what to do.
"""


class AttributionError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(AttributionError, ValueError):
    """An input has a wrong shape, dtype or content; raised before the model is run."""


class TargetError(AttributionError, AssertionError, IndexError):
    """A target cannot be selected from the model's output.

    Both an ``AssertionError`` and an ``IndexError``, because Captum raises the one
    for a target of the wrong form and the other for a class that does not exist.
    """


class UnknownModelError(AttributionError):
    """The read-out token or the patch grid cannot be known from the model."""


class CaptureError(AttributionError):
    """Attention could not be read from the model."""


class NothingCapturedError(CaptureError):
    """No attention call was seen during the forward pass."""


class UnsupportedAttentionError(CaptureError):
    """Attention was seen that cannot be followed from token to token."""


class UnsupportedOperationError(AttributionError):
    """An operation has no relevance rule."""


class MissingDependencyError(AttributionError, ImportError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"{library} is needed here and is not installed. Install it with: pip install 'attrib-plugin[{extra}]'"
        )


class TargetIgnoredWarning(UserWarning):
    """A target was given to a method whose map does not depend on the class."""


class TrainingModeWarning(UserWarning):
    """The model is in training mode, so dropout changes the explanation from call to call."""


class NumericsWarning(UserWarning):
    """The result is defined but says little: all-zero relevance, or values that had to be guarded."""


class UnknownKeywordWarning(UserWarning):
    """A keyword argument is nearly one that the model takes, and would be ignored."""
