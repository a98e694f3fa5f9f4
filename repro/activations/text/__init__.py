"""Texts: bundled, of the hub, of Debian, of the user's files; split into documents."""
