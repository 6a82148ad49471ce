"""The servers that this project's own is compared with: each the smallest that its framework's manual suggests."""
