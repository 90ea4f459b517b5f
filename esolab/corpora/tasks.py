"""The words of instructions: kinds of tasks, their facts, and the ways to ask for them and to do them.

Templates are as in grammar.py, the most usual choice first. Nothing here needs "an". Every answer tells at least two
facts, copied from the prompt, and most tell three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from esolab.corpora.grammar import words

Facts = dict[str, str]


def as_given(facts: Facts) -> Facts:
    """Nothing follows from the facts."""
    return facts


def in_order(facts: Facts) -> Facts:
    """The facts a, b and c, with `low`, `mid` and `high`: the same numbers from small to large."""
    ordered = sorted((facts["a"], facts["b"], facts["c"]), key=int)
    return facts | dict(zip(("low", "mid", "high"), ordered, strict=True))


def compared(facts: Facts) -> Facts:
    """The things x and y at a and b euros, with `cheap` at `low` and `dear` at `high`."""
    (low, cheap), (high, dear) = sorted([(facts["a"], facts["x"]), (facts["b"], facts["y"])], key=lambda p: int(p[0]))
    return facts | {"cheap": cheap, "low": low, "dear": dear, "high": high}


@dataclass(frozen=True)
class Task:
    """A kind of instruction: the facts it is given, the ways to ask, to lay out the input (none: no input), to answer.

    An instruction and an input together tell all facts. `derive` adds what follows from them.
    """

    name: str
    facts: dict[str, list[str]]
    instructions: list[str]
    inputs: list[str]
    answers: list[str]
    derive: Callable[[Facts], Facts] = as_given


_FIRST = words(
    "Ada Bela Chloe David Erik Fiona Georg Hanna Ines Jakob Kaya Lukas "
    "Maria Noah Otto Petra Rita Simon Tilda Uwe Vito Willa Yann Zelda"
)
_LAST = words(
    "Arnold Bishop Clark Dorn Eriksen Fuchs Gomez Hansen Iversen Jung Kovacs Larsen "
    "Marino Nagy Ortiz Price Reyes Stone Torres Ulrich Varga Wolf York Zeller"
)
_CITIES = words(
    "Athens Basel Berlin Boston Brussels Cologne Dallas Denver Galway Helsinki Istanbul Krakow London Lucerne "
    "Munich Nantes Oslo Paris Rome Salzburg Tokyo Trento Venice York"
)
_DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_NUMBERS = [str(n) for n in range(20, 80)]
_JOBS = words("baker carpenter dentist farmer gardener lawyer nurse painter pilot plumber singer teacher")
_HOBBIES = words("chess cooking cycling dancing fishing football knitting music poetry running sailing swimming")
_THINGS = words("bicycle camera carpet clock desk drum guitar kettle lamp mirror phone radio sofa table tent violin")
_FOODS = words("bread butter carrots cheese garlic honey lemons milk mushrooms pasta pears rice salt sugar tomatoes")
_SHOPS = words("bakery bookshop clinic gallery gym library museum pharmacy restaurant school theatre zoo")
_PARTIES = ["birthday party", "concert", "dinner", "farewell party", "picnic", "reading", "wedding", "summer party"]
_PLACES = ["castle", "church", "garden", "harbour", "hotel", "lake", "park", "station", "town hall", "village square"]
_REASONS = [
    *("a broken pipe", "a funeral", "a staff meeting", "a strike", "a festival", "building work", "cleaning"),
    *("heavy rain", "holidays", "illness", "snow", "training"),
]

TASKS = [
    Task(
        name="profile",
        facts={"first": _FIRST, "last": _LAST, "job": _JOBS, "city": _CITIES, "hobby": _HOBBIES, "n": _NUMBERS},
        instructions=[
            "Write [a|one] sentence about this person.",
            "Turn these facts into a sentence.",
            "Introduce this person to a group of strangers.",
        ],
        inputs=[
            "Name: {first} {last}. Job: {job}. City: {city}. Age: {n}. Likes: {hobby}.",
            "{first} {last}, {n} years old, {job} in {city}, likes {hobby}",
        ],
        answers=[
            "{first} {last} is a {job} [from|in] {city} who [likes|loves|enjoys] {hobby}.",
            "{first} {last}, [a {job}|{n}], [lives in|comes from] {city} and [likes|loves|enjoys] {hobby}.",
            "{first} is a {n} year old {job} [from|in|who lives in] {city}[ and likes {hobby}|].",
            "[Meet|This is] {first} {last}, a {job} [from|in] {city}[| who likes {hobby}].",
            "The {job} {first} {last} is {n} and [lives|works] in {city}.",
            "{city} is [home to|the home of] {first} {last}, a {job} [who loves|fond of] {hobby}.",
            "At {n}, {first} {last} [works|earns a living] as a {job} [in|near] {city}.",
            "When not at work as a {job}, {first} [likes|loves|enjoys] {hobby} in {city}.",
        ],
    ),
    Task(
        name="invitation",
        facts={"first": _FIRST, "party": _PARTIES, "place": _PLACES, "day": _DAYS, "host": _FIRST},
        instructions=[
            "Write a short invitation[| to {first}].",
            "Invite {first} [with these details|in one or two sentences].",
            "Help {host} to write [a note|a message] that invites {first}.",
        ],
        inputs=[
            "Guest: {first}. What: {party}. Where: {place}. When: {day}. From: {host}.",
            "{host} gives a {party} at the {place} on {day} and wants {first} to come",
        ],
        answers=[
            "Dear {first}, [please come|you are invited] to [my|our|the] {party} at the {place} on {day}.[ {host}|]",
            "[Hello|Dear|Hi] {first}, [will you|would you like to] come to [my|the] {party} on {day}?[ {host}|]",
            "{first}, [I|we] [hope|would love] to see you at the {place} on {day} for [a|my|our] {party}.",
            "{host} [invites|would like to invite] {first} to a {party} at the {place}[ on {day}|].",
            "On {day} there is a {party} at the {place}, {first}: [please come|do come]![ {host}|]",
            "{first}, keep {day} free for [my|our|the] {party} at the {place}![ {host}|]",
        ],
    ),
    Task(
        name="notice",
        facts={"shop": _SHOPS, "day": _DAYS, "end": _DAYS, "reason": _REASONS, "n": _NUMBERS},
        instructions=[
            "Write a notice for the door[| of the {shop}].",
            "Tell [visitors|people] that the {shop} is closed.",
            "What should the sign [on the door|of the {shop}] say?",
        ],
        inputs=[
            "{shop}, closed from {day} to {end}, reason: {reason}, questions: room {n}",
            "The {shop} closes on {day} because of {reason} and opens again after {end}. Room {n} answers questions.",
        ],
        answers=[
            "The {shop} is closed from {day} to {end} because of {reason}.[ Questions? Room {n}.|]",
            "[Sorry,|Dear visitors,] the {shop} [is|will be] closed [until|from {day} to] {end} because of {reason}.",
            "Because of {reason}, the {shop} [is|stays|will be] closed from {day} to {end}.",
            "Closed [because of|due to] {reason} until {end}. [Please ask in|Come to] room {n}.",
            "[No entry|Closed] from {day} to {end}[: {reason}|]. [Please ask in|Visit] room {n}.",
            "The {shop} opens again after {end}. [Please ask in|Visit] room {n}.",
        ],
    ),
    Task(
        name="decline",
        facts={"first": _FIRST, "x": _THINGS, "n": _NUMBERS, "host": _FIRST},
        instructions=[
            "[Politely decline|Decline] this offer.",
            "Write a [polite|friendly] answer that says no.",
            "{host} does not want the {x}. Write the [answer|reply].",
        ],
        inputs=[
            "Hello {host}, would you like to buy my {x} for {n} euros? {first}",
            "{first} offers {host} a {x} for {n} euros",
        ],
        answers=[
            "Dear {first}, thank you, but I do not need a {x}[ for {n} euros|]. {host}",
            "[Hello|Dear|Hi] {first}, I am [sorry|afraid], but {n} euros [is|are] too much for [the|a] {x}.[ {host}|]",
            "Thank you for the {x}, {first}, but I [have one|cannot pay {n} euros|must say no]. [|Yours, ]{host}",
            "[Sorry|No, thank you], {first}, I already have a {x}. [|Yours, |Best wishes, ]{host}",
            "{first}, your {x} is [lovely|nice|very good], but {n} euros is [too much|more than I have].",
            "I [cannot|do not want to] [buy|take] the {x} for {n} euros, {first}[. {host}|].",
        ],
    ),
    Task(
        name="thanks",
        facts={"first": _FIRST, "x": _THINGS, "party": _PARTIES, "host": _FIRST},
        instructions=[
            "Thank {first} for the {x} that {host} got at the {party}.",
            "{host} got a {x} from {first} at the {party}. Write a thank you note.",
            "Write a few words of thanks from {host} to {first} for a {x}, given at the {party}.",
        ],
        inputs=[],
        answers=[
            "Dear {first}, [thank you|many thanks] for the [lovely |beautiful |]{x}! {host}",
            "[Hello|Dear|Hi] {first}, thank you for [the {x}|coming to the {party}]. I [love|like|use] the {x}. {host}",
            "{first}, the {x} [was|is] the best present of the {party}. [Thank you!|Thanks!] {host}",
            "What a [lovely|beautiful|useful] {x}, {first}! [Thank you!|Thanks!] [|Yours, |Love, ]{host}",
            "Thank you, {first}, for [the {x} at|bringing a {x} to|giving me a {x} at] the {party}.[ {host}|]",
            "I [think|will think] of you and the {party} when I see the {x}, {first}. {host}",
        ],
    ),
    Task(
        name="who",
        facts={"first": _FIRST, "last": _LAST, "job": _JOBS, "x": _THINGS, "place": _PLACES, "day": _DAYS},
        instructions=["Who found the {x}?", "[Tell me|Say] who found the {x}[|, and where].", "Which person found it?"],
        inputs=[
            "On {day} a {x} was left at the {place}. {first} {last}, a {job}, found it and took it to the police.",
            "{first} {last}, a {job}, walks to the {place} every day and found a {x} there on {day}.",
        ],
        answers=[
            "The {x} was found by {first} {last}[, a {job}| on {day}|].",
            "{first} {last}[, a {job},|] found [the {x}|a {x}|it] at the {place}[ on {day}|].",
            "It was {first} {last}, a {job}, who found [the {x}|it].",
            "[The {job}|A {job} called] {first} {last} found [the {x}|a {x}] [at the {place}|on {day}].",
            "On {day}, {first} [{last} |]found [the|a] {x}[ at the {place}|].",
            "The person who found the {x} [is|was] [{first} {last}|the {job} {first} {last}].",
        ],
    ),
    Task(
        name="shopping",
        facts={"first": _FIRST, "a": _FOODS, "b": _FOODS, "c": _FOODS, "d": _FOODS, "city": _CITIES},
        instructions=[
            "What did {first} buy?",
            "[List|Name] the things that {first} bought.",
            "Make a list of what was bought.",
        ],
        inputs=[
            "{first} went to the market in {city} and bought {a}, {b} and {c}. The market had no {d}.",
            "At the market in {city}, {first} looked for {d}, but found only {a}, {b} and {c} and bought them.",
        ],
        answers=[
            "{first} bought {a}, {b} and {c}[| in {city}| at the market].",
            "{a}, {b}[,|] and {c}.",
            "- {a} - {b} - {c}",
            "[1.|First] {a}, [2.|second] {b}, [3.|third] {c}",
            "[In {city},|At the market,] {first} [bought|got|found] {a}, {b} and {c}.",
            "[The things bought|The list of {first}|Things from {city}]: {a}, {b}, {c}.",
            "{first} came home [from {city} |]with {a}, {b} and {c}[, but without {d}|].",
        ],
    ),
    Task(
        name="cheaper",
        facts={"x": _THINGS, "y": _THINGS, "a": _NUMBERS, "b": _NUMBERS},
        instructions=[
            "Which [one |]is cheaper, the {x} or the {y}?",
            "Compare the two prices.",
            "[What|Which] should I buy to save money?",
        ],
        inputs=["{x}: {a} euros. {y}: {b} euros.", "The {x} costs {a} euros, and the {y} costs {b} euros."],
        answers=[
            "The {cheap} is cheaper than the {dear}[: it costs {low} euros|].",
            "The {cheap}[, for {low} euros|], is cheaper than the {dear}[, for {high} euros|].",
            "The {cheap} costs [|only ]{low} euros[, the| and the|, but the] {dear} [costs |]{high} euros.",
            "At {low} euros, the {cheap} [is cheaper|costs less] than the {dear}.",
            "[Buy|Take|Choose] the {cheap}: {low} euros is less than {high}[| euros].",
            "[Buy|Take] the {cheap}: it costs {low} euros[, not {high}|, and the {dear} {high}].",
            "The {dear} [costs more|is more expensive] than the {cheap}[, {high} euros|].",
            "{low} euros for the {cheap} is less than {high} euros for the {dear}.",
        ],
        derive=compared,
    ),
    Task(
        name="order",
        facts={"a": _NUMBERS, "b": _NUMBERS, "c": _NUMBERS},
        instructions=[
            "Put the numbers in order[, from small to large|].",
            "Sort {a}, {b} and {c}[| from small to large].",
            "What is the right order of {a}, {b} and {c}?",
        ],
        inputs=["{a}, {b}, {c}", "{a} {b} {c}"],
        answers=[
            "{low}, {mid}, {high}",
            "{low}, {mid} and {high}[| are in order| is the right order].",
            "The [right |]order is {low}, {mid}, {high}.",
            "From small to large[, they are|:] {low}, {mid}[,| and] {high}.",
            "First {low}, [then|next] {mid}, [and|then|and finally] {high}.",
            "{low} is smaller than {mid}, and {high} [is the largest|comes last].",
            "[Sorted|In order]: {low}, {mid}, {high}.",
        ],
        derive=in_order,
    ),
    Task(
        name="present",
        facts={"first": _FIRST, "hobby": _HOBBIES, "job": _JOBS, "n": _NUMBERS, "party": _PARTIES},
        instructions=[
            "What can I give {first}, a {job} who likes {hobby}, at the {party} for {n} euros?",
            "Suggest a present for {first} of up to {n} euros for the {party}. {first} is a {job} and likes {hobby}.",
            "I have {n} euros for a present for the {job} {first}, who loves {hobby}. The {party} is soon. Any ideas?",
        ],
        inputs=[],
        answers=[
            "A [book|course|film|game] about {hobby} for {n} euros [would|will] [please|suit] {first}.",
            "[Give|Buy] {first} a [book|course|magazine|calendar] about {hobby} for the {party}.",
            "As {first} likes {hobby}, [take|choose|buy] a [book|film|poster] about it for {n} euros.",
            "For {n} euros you [can|could] [buy|get] {first} a [lesson|course|day] of {hobby}.",
            "{first} [would|will] [love|like] a [cake|poster|shirt] with a picture of {hobby} at the {party}.",
            "[How|What] about a [book|course|film] about {hobby} for a {job} like {first}?",
            "A {job} who [likes|loves] {hobby} [would|will] like [tickets|flowers|a book] for {n} euros.",
        ],
    ),
]
