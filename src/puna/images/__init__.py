"""Pictures: what their headers say, their pixels, and these in the form that a model looks at."""
