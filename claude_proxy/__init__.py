"""Claude Code through REDCap's SecureChatAI: the Anthropic Messages API in front of a text-only module.

Glossary of the words that the code uses in its own sense. Alone, `call` is a tool call; a call to REDCap is an ask.

    alias           SecureChatAI's name for a model, such as `gpt-4o`; a client's model name is mapped to one
    allow-list      digests of the tokens that may use a shared proxy
    answer          what the module sent back for one ask: text and usage
    apology         a fixed sentence that the module answers with in place of an error
    armour          each `&` of a literal entity written as `&amp;`, since the module decodes entities once
    ask             one call of the model; a request takes one, and a few more for a repair or continuations
    call            a tool call as text, with the tool's name and its arguments; as a content block, a `ToolUse`
    catalogue       the tools as the model reads them, in the system text
    continuation    a further ask for the rest of a reply that was cut off
    credential      what a client presents: a REDCap token
    defect          what is wrong with a reply that plainly meant a call but cannot be read
    dialect         another way than the notation in which models write calls
    edit mending    restoring characters that an edit lost on the module's way, by what the conversation has shown
    exchange        the way of one request from JSON to message
    family          how SecureChatAI passes an alias on: `claude`, `reasoning` or `chat`
    form            the fields of one POST to REDCap
    journal         the record of what happened, which cannot hold content
    notation        how calls are written for the model, and read back
    prefill         the beginning of a reply that the client has written itself
    prompt          what the model is sent: a system text and turns
    repair          a second ask, which says what was wrong with the reply to the first
    reply           what the model wrote, read: content blocks and a stop reason
    snapshot        settings and upstreams of one moment; a request goes by one from its beginning to its end
    step            a costly pure function on the way to a prompt; the shell remembers what it gave
    turn            what one side says in a conversation, as the model reads it
    upstream        the way to one REDCap: its address, how it is reached, connections that are kept
    waiter          who waits on behalf of one request: its deadline, its client, what has to be sent meanwhile
    window          how many tokens a model takes, prompt and reply together
"""

__version__ = "0.1.0"
