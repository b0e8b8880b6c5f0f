"""A run in another tool's own form: what is alike in `base`, and a module for each tool."""

from lowrung.adapters.tools.axolotl import Axolotl
from lowrung.adapters.tools.base import Export
from lowrung.adapters.tools.llamafactory import LlamaFactory
from lowrung.adapters.tools.trl import Trl

TOOLS: dict[str, type[Export]] = {tool.TOOL: tool for tool in (Trl, Axolotl, LlamaFactory)}
"""What a run can be written for, by name."""
