"""The form that every settings model takes: frozen, closed and described.

A section lives beside the class whose behaviour it sets and turns into one table of the TOML file. The string under
a field is its documentation: `fedmb.settings.to_toml` writes it above the value.

    class Budget(Section):
        steps: int = Field(default=10, ge=1)
        '''Gradient steps in one round.'''

A field that may be None means "absent" and must default to None; "no limit" is `math.inf`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One table of settings; values never change after construction, unknown keys are refused.

    Raises:
        pydantic.ValidationError: a value breaks a rule; it is a ValueError. `fedmb.settings.load` turns it into a
            SettingsError that names the key.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=True,  # math.inf is how a setting says "no limit"
        protected_namespaces=(),  # `model_...` is an honest name for a setting about a model
    )
