"""`mistral-service models`: the models that the key may use, and their capabilities."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mistral_service.wire.models import Catalogue, ModelCard

_ABILITIES = {
    "chat": "chat",
    "function_calling": "functions",
    "vision": "sees",
    "reasoning": "thinks",
    "fim": "fills in",
}


def show(catalogue: Catalogue, console: Console) -> None:
    """Print the list as a table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", style="cyan", no_wrap=True)
    table.add_column("context", justify="right")
    for word in _ABILITIES.values():
        table.add_column(word, justify="center")
    table.add_column("")
    for card in sorted(catalogue.cards, key=lambda card: card.id):
        length = f"{card.max_context_length:,}" if card.max_context_length else "?"
        table.add_row(card.id, length, *(_mark(getattr(card, a)) for a in _ABILITIES), _note(card))
    console.print(table)


def _mark(able: bool | None) -> Text:
    if able is None:
        return Text("?", "dim")
    return Text("✓", "green") if able else Text("·", "dim")


def _note(card: ModelCard) -> Text:
    note = Text()
    if card.aliases:
        note.append("also " + ", ".join(card.aliases), "dim")
    if card.deprecation:
        note.append(" " if card.aliases else "")
        note.append(f"gone from {card.deprecation[:10]}", "yellow")
        note.append(f": use {card.replacement}" if card.replacement else "", "yellow")
    return note
