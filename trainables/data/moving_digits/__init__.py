"""The built-in video set: moving digits, drawn and encoded here."""
