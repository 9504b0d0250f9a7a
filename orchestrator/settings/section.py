"""What all sections of the settings have in common: their base, and the forms that names may have."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from orchestrator.core.nginx.checks import check_network

NODE_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,62}$"
# Without its length: `\w` is some 140,000 letters, and a pattern that counts them takes some MiB of each process.
KEY_NAME = r"^[\w.@-]+$"
KEY_NAME_LETTERS = 64
DIGEST = r"^sha256:[0-9a-f]{64}$"
HEADER_NAME = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"

PATTERN_WORDS = {
    NODE_NAME: "lower-case letters, digits and hyphens, at most 63, a letter or digit first",
    MODEL_NAME: "a model's name: letters, digits and . _ : / @ -, a letter or digit first",
    NAME: "letters, digits and . _ : -, at most 63, a letter or digit first",
    KEY_NAME: f"letters, digits and _ . @ -, at most {KEY_NAME_LETTERS}",
    DIGEST: "sha256: and 64 digits of 0-9 and a-f",
    HEADER_NAME: "a header's name: letters, digits and signs such as -, at most 128",
}
KeyName = Annotated[str, Field(pattern=KEY_NAME, max_length=KEY_NAME_LETTERS)]
ModelName = Annotated[str, Field(pattern=MODEL_NAME)]
Network = Annotated[str, AfterValidator(check_network)]


class Section(BaseModel):
    """Base of all sections: an unknown key is an error, a loaded setting never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
