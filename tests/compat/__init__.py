"""Shows that the official OpenAI SDK, which checks every answer strictly, works over a real socket."""
