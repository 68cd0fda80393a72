"""The AI Workspace server."""
