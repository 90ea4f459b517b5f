"""The words of instructions_shift: the tasks of instructions with other names, things and ways to ask and answer.

Days, numbers, everyday words and about half of the jobs, hobbies, parties and reasons stay. Templates are as in
grammar.py; nothing needs "an" here either.
"""

from __future__ import annotations

from esolab.corpora.grammar import words
from esolab.corpora.tasks import Task, compared, in_order

_FIRST = words(
    "Amelia Bernd Carmen Dennis Esther Frank Gerda Harold Iris Julius Klara Leo "
    "Marta Nina Oliver Philip Rosalie Sven Theo Ursula Valerie Wendy"
)
_LAST = words(
    "Baker Cohen Dietrich Eastwood Franklin Graham Hoffman Jackson Klein Lambert "
    "Mason Newton Palmer Roth Shepherd Taylor Underwood Vogt Walker Zimmer"
)
_CITIES = words(
    "Belfast Bogota Calais Dresden Edinburgh Glasgow Houston Jaipur Kiel Lublin Memphis Nagoya Palermo Rostock Seoul "
    "Tallinn Verona Windsor"
)
_DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_NUMBERS = [str(n) for n in range(20, 80)]
_JOBS = words("baker butcher driver farmer grocer lawyer mechanic nurse tailor teacher")
_HOBBIES = words("bowling chess climbing cooking drawing fishing golf music sailing tennis")
_THINGS = words(
    "blanket bottle candle chair drill flute hammer ladder necklace pillow rug saddle trumpet vase wardrobe"
)
_FOODS = words("bananas cabbage cherries corn flour grapes ham jam lettuce noodles peas plums potatoes spinach yoghurt")
_SHOPS = words("cafe cinema garage laundry library market museum pool school stadium")
_PARTIES = ["barbecue", "carnival", "concert", "dinner", "jubilee", "lunch", "picnic", "wedding"]
_PLACES = ["beach", "bridge", "church", "farm", "garden", "meadow", "park", "tower"]
_REASONS = [
    "a flood",
    "a parade",
    "a power cut",
    "a strike",
    "fresh paint",
    "heavy rain",
    "holidays",
    "repairs",
    "snow",
]

TASKS = [
    Task(
        name="profile",
        facts={"first": _FIRST, "last": _LAST, "job": _JOBS, "city": _CITIES, "hobby": _HOBBIES, "n": _NUMBERS},
        instructions=["Who is this person? Write a sentence.", "Write a sentence that introduces {first}."],
        inputs=[
            "Name: {first} {last}. Age: {n}. City: {city}. Job: {job}. Enjoys: {hobby}.",
            "{first} {last} from {city}, {job}, {n} years old, loves {hobby}",
        ],
        answers=[
            "{first} {last} [lives|works] in {city} as a {job}.",
            "{first} {last}, [who is {n}|a {job}], is from {city} and [loves|likes] {hobby}.",
            "This {job} from {city} is {first} {last}[, who enjoys {hobby}|].",
            "{first} {last} from {city} is {n} years old and [enjoys|likes] {hobby}.",
            "A {job} who [enjoys|loves] {hobby}: {first} {last} from {city}.",
        ],
    ),
    Task(
        name="invitation",
        facts={"first": _FIRST, "party": _PARTIES, "place": _PLACES, "day": _DAYS, "host": _FIRST},
        instructions=["Write to {first} and invite [this guest|{first}].", "{first} is to be invited. Write the note."],
        inputs=[
            "From: {host}. Guest: {first}. When: {day}. Where: {place}. What: {party}.",
            "On {day}, {host} gives a {party} at the {place}, and {first} is invited",
        ],
        answers=[
            "Hello {first}, you are invited to [the|my] {party} at the {place}[ on {day}|].[ {host}|]",
            "Dear {first}, I would love to see you at [the|my] {party} on {day}.[ {host}|]",
            "Please come to the {place} on {day}, {first}: [it is|there is] a {party}![ {host}|]",
            "{first}, will you come to the {place} on {day}?[ {host}|]",
            "Dear {first}, on {day} there is a {party} at the {place}. Please come![ {host}|]",
        ],
    ),
    Task(
        name="notice",
        facts={"shop": _SHOPS, "day": _DAYS, "end": _DAYS, "reason": _REASONS, "n": _NUMBERS},
        instructions=["Write a sign for the {shop}.", "People should see that it is closed. Write the notice."],
        inputs=[
            "{shop}: closed because of {reason}, from {day} to {end}. Room {n} answers questions.",
            "Because of {reason}, the {shop} closes from {day} to {end}, questions: room {n}",
        ],
        answers=[
            "From {day} to {end} the {shop} is closed[: {reason}| because of {reason}].",
            "The {shop} is closed because of {reason}. [Please come|Come] to room {n}.",
            "The {shop} closes on {day} and opens again after {end}[. Questions? Room {n}.|.]",
            "Sorry, closed from {day} to {end} due to {reason}.[ Visit room {n}.|]",
            "Dear visitors, the {shop} opens after {end}. The reason is {reason}.",
        ],
    ),
    Task(
        name="decline",
        facts={"first": _FIRST, "x": _THINGS, "n": _NUMBERS, "host": _FIRST},
        instructions=["Say no to this offer.", "Write a friendly note: {host} does not want to buy the {x}."],
        inputs=[
            "Dear {host}, do you want my {x}? It is {n} euros. {first}",
            "{first} would like {host} to buy a {x} for {n} euros",
        ],
        answers=[
            "Sorry, {first}, but I do not want [the|a] {x}. {host}",
            "Dear {first}, {n} euros is more than I have for a {x}.[ {host}|]",
            "No, thank you, {first}: the {x} is nice, but {n} euros is too much.[ {host}|]",
            "Hello {first}, I cannot buy [your|the] {x} for {n} euros[. {host}|].",
            "Thank you, {first}, but I already have a {x}. [Yours, |]{host}",
        ],
    ),
    Task(
        name="thanks",
        facts={"first": _FIRST, "x": _THINGS, "party": _PARTIES, "host": _FIRST},
        instructions=[
            "At the {party}, {first} gave {host} a {x}. Write a note of thanks from {host}.",
            "{host} loves the {x} from {first}, a present at the {party}. Write the thank you note.",
        ],
        inputs=[],
        answers=[
            "Dear {first}, I [love|like] the {x}. [Thank you!|Many thanks!] {host}",
            "Thank you for the {x}, {first}! It is [beautiful|lovely]. {host}",
            "Many thanks for coming to the {party} and for the {x}, {first}![ {host}|]",
            "Hello {first}, the {x} is the best of presents. [Thanks!|Thank you!] {host}",
            "What a present at the {party}, {first}! I love the {x}.[ {host}|]",
        ],
    ),
    Task(
        name="who",
        facts={"first": _FIRST, "last": _LAST, "job": _JOBS, "x": _THINGS, "place": _PLACES, "day": _DAYS},
        instructions=["Who was it that found the {x}?", "Say which person found the {x}."],
        inputs=[
            "{first} {last}, a {job}, was at the {place} on {day} and found a {x} there.",
            "A {x} was found at the {place} on {day}. The person who found it was {first} {last}, a {job}.",
        ],
        answers=[
            "{first} {last} found [the|a] {x}[ on {day}|].",
            "On {day}, the {x} was found by {first} {last}[, a {job}|].",
            "It was found by {first} {last}, [a|the] {job}[, at the {place}|].",
            "The {job} who found the {x} [was|is] {first} {last}.",
            "At the {place}, {first} {last} found [the|a] {x}.",
        ],
    ),
    Task(
        name="shopping",
        facts={"first": _FIRST, "a": _FOODS, "b": _FOODS, "c": _FOODS, "d": _FOODS, "city": _CITIES},
        instructions=["Write the list of {first}.", "Which things did {first} buy in {city}?"],
        inputs=[
            "The market in {city} had no {d}, and {first} came home with {a}, {b} and {c}.",
            "{first} bought {a}, {b} and {c} at the market in {city}, but no {d}.",
        ],
        answers=[
            "{first} [bought|came home with] {a}, {b} and {c}.",
            "[Things bought|Bought]: {a}, {b} and {c}",
            "1. {a} 2. {b} 3. {c}",
            "In {city}, {first} bought {a}, {b} and {c}[, but no {d}|].",
            "{a} and {b} and {c}.",
        ],
    ),
    Task(
        name="cheaper",
        facts={"x": _THINGS, "y": _THINGS, "a": _NUMBERS, "b": _NUMBERS},
        instructions=["Is the {x} cheaper than the {y}?", "Which of the two costs less?"],
        inputs=["A {x} is {a} euros. A {y} is {b} euros.", "{a} euros for the {x}, {b} euros for the {y}"],
        answers=[
            "The {cheap} [is cheaper|costs less]: {low} euros[, and not {high}|].",
            "The {dear} costs {high} euros and the {cheap} [only |]{low}.",
            "It is the {cheap} that costs less than the {dear}.",
            "The {cheap} is cheaper[, at {low} euros|] than the {dear}.",
            "[Take|Buy] the {cheap} for {low} euros[, not the {dear}|].",
        ],
        derive=compared,
    ),
    Task(
        name="order",
        facts={"a": _NUMBERS, "b": _NUMBERS, "c": _NUMBERS},
        instructions=["From small to large, please.", "In which order do the numbers come?", "Sort these."],
        inputs=["{a} and {b} and {c}", "The numbers are {a}, {b} and {c}."],
        answers=[
            "{low}, then {mid}, then {high}.",
            "{low}, {mid}, {high}.",
            "The numbers in order are {low}, {mid} and {high}.",
            "{low} comes first, then {mid}, and {high} comes last.",
            "From small to large: {low} and {mid} and {high}.",
        ],
        derive=in_order,
    ),
    Task(
        name="present",
        facts={"first": _FIRST, "hobby": _HOBBIES, "job": _JOBS, "n": _NUMBERS, "party": _PARTIES},
        instructions=[
            "The {job} {first} likes {hobby}. I want to give a present for {n} euros at the {party}. Which one?",
            "Any ideas for a present for {first}, a {job}, for the {party}? I have {n} euros. {first} loves {hobby}.",
        ],
        inputs=[],
        answers=[
            "A book about {hobby} would be the best for {first}[ at the {party}|].",
            "{first} will [love|like] a [course|lesson] of {hobby} for {n} euros.",
            "Buy a [poster|film|book] about {hobby} for {n} euros.",
            "For the {party}, [give|buy] {first} a [calendar|shirt|game] with {hobby}.",
            "What about a [day|lesson] of {hobby} for {n} euros, as {first} is a {job}?",
        ],
    ),
]
