"""Examples to learn from: chats, and prompts with completions; of each only some tokens are targets."""
