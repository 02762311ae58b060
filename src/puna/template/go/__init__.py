"""Go's text/template: parsed to a tree that others may read, and run within bounds."""

from puna.template.go.budget import Budget
from puna.template.go.template import Template, parse
from puna.template.go.values import Stringer, Struct, Value

__all__ = ["Budget", "Stringer", "Struct", "Template", "Value", "parse"]
