"""Language models."""

import asyncio

from dapr.aio.clients import DaprClient as AsyncClient
from dapr.clients.grpc import conversation
from dapr.clients.grpc.conversation import (
    ConversationInput,
    ConversationInputAlpha2,
    create_assistant_message,
    create_system_message,
    create_tool_message,
    create_user_message,
)
from report import check, contains, equal, fails


@conversation.tool
def shout(text: str) -> str:
    """Says a text in capitals.

    Args:
        text: what to say
    """
    return text.upper()


def checks(client, _) -> None:
    def converse(name, *messages, **more):
        return client.converse_alpha2(name, [ConversationInputAlpha2(messages=list(messages))], **more)

    @check('conversation: the first version answers')
    def _():
        answer = client.converse_alpha1('echo', [ConversationInput('ahoy', role='user'), ConversationInput('again')], context_id='c-1', temperature=0.5)
        equal([output.result for output in answer.outputs], ['ahoy', 'again'])

    @check('conversation: messages of every role are answered')
    def _():
        answer = converse('echo', create_system_message('be short'), create_assistant_message('yes?'), create_user_message('ahoy'), context_id='c-2')
        texts = [choice.message.content for output in answer.outputs for choice in output.choices]
        equal(texts[-1], 'ahoy', 'last answer')
        equal(answer.outputs[0].choices[0].finish_reason, 'stop', 'reason')

    @check('conversation: personal data is obfuscated when that is asked for')
    def _():
        answer = client.converse_alpha1('echo', [ConversationInput('write to ada@example.com', scrub_pii=True)])
        equal('ada@example.com' in answer.outputs[0].result, False, answer.outputs[0].result)

    @check('conversation: a model uses a tool of the application')
    def _():
        messages = [create_user_message('ahoy')]
        tools = conversation.get_registered_tools()
        asked = converse('model', *messages, tools=tools, tool_choice='auto', parameters={'top_p': 1}, metadata={'a': 'b'})
        choice = asked.outputs[0].choices[0]
        call = choice.message.tool_calls[0]
        equal([choice.finish_reason, call.id, call.function.name], ['tool_calls', 'call-1', 'shout'])
        equal([asked.outputs[0].model, asked.outputs[0].usage.total_tokens], ['interop', 7])
        said = conversation.execute_registered_tool(call.function.name, call.function.arguments)
        messages += [*asked.to_assistant_messages(), create_tool_message(call.id, call.function.name, said)]
        answer = converse('model', *messages, tools=tools)
        equal(answer.outputs[0].choices[0].message.content, 'call-1 says AHOY')

    @check('conversation: a model that does not exist is named in the error')
    def _():
        contains(fails(lambda: converse('nomodel', create_user_message('ahoy'))).details(), 'nomodel')

    @check('conversation: the asynchronous client does the same')
    def _():
        async def ask():
            async with AsyncClient() as client:
                one = await client.converse_alpha1('echo', [ConversationInput('ahoy')])
                two = await client.converse_alpha2('echo', [ConversationInputAlpha2(messages=[create_user_message('again')])])
                return [one.outputs[0].result, two.outputs[0].choices[0].message.content]

        equal(asyncio.run(ask()), ['ahoy', 'again'])
