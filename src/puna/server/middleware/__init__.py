"""What every request goes through before it reaches a route, as plain ASGI. Outermost first:
`requests`, `hosts`, `origins`, `keys`."""
