"""The papers' cost tables, computed from usage figures and component costs."""
