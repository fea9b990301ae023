"""The verbs: each module here has ``register(app: typer.Typer) -> None`` and imports heavy things inside its command only."""
