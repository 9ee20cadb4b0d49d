"""What a server does in one step, in Lua."""
