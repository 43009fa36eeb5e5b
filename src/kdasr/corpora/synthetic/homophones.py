"""Words that sound the same, each with the sentences that tell it from its partners.

Blocks are sets of homophones; a line is a member and its carriers, separated by slashes. A carrier leaves
no choice: its syntax or its other words fit only that member.
"""

HOMOPHONES = """
two: {name} bought two {adj_thing} {thing:s} / only two of the {person:s} stayed in the {place}
too: this {thing} is far too {adj_thing} for {name} / the {place} was much too {adj_place} for {person:s}
to: {name} wanted to {handle} the {thing} / the {person} hoped to {travel} with {name}

see: you could hardly see the {place} from the {place} / {name} did not see the {animal} at all
sea: the {person} sailed across the sea with {name} / a storm came up over the sea in {month}

son: the {person} had one daughter and a son called {name} / {name} was proud of his youngest son
sun: the sun set behind the {place} / the {person} slept in the hot sun all {weekday}

one: there was only one {thing} left in the {place} / one of the {animal:s} ran towards {name}
won: {name} won the race in {month} / our team won the match on {weekday}

ate: the {animal} ate the {food} / {name} ate too much {food} on {weekday}
eight: eight {person:s} came from {city} / {name} counted eight {animal:s} near the {place}

four: four {adj_thing} {thing:s} lay on the table / {name} has four brothers in {city}
for: {name} bought some {food} for the {person} / the {thing} was a gift for {name}

blue: {name} wore a blue {garment} on {weekday} / the sky was blue above the {place}
blew: the wind blew all night over the {place} / {name} blew out the candles

red: the {person} wore a red {garment} / the red {thing} belongs to {name}
read: {name} has read a book about {animal:s} / the {person} has read every letter from {name}

right: turn right at the {place} / {name} was quite right about the {person}
write: the {person} will write a long letter to {name} / please write your name on the {thing}

know: you know that {name} likes {food} / do you know the {person} from {city}
no: there was no {food} in the {place} / {name} had no money with him

new: a new {place} opened in {month} / {name} wants a brand new {thing}
knew: everyone knew that {name} was {feeling} / {name} knew the {person} very well

here: come here at once and bring the {thing} / {name} has lived here since {month}
hear: you can hear the {animal:s} at night / did {name} hear a noise from the {place}

their: the {person:s} sold their {thing:s} / they left their {garment:s} in the {place}
there: there is a {place} near {city} / is there any {food} in the {place}

wait: you must wait until {weekday} / {name} could not wait for the {person}
weight: the doctor checked her weight in {month} / the weight of the {thing} surprised {name}

week: {name} stayed in {city} for a week / next week the {person} leaves for {city}
weak: after the illness {name} felt weak / the old {animal} was too weak and tired

meet: let us meet at the {place} on {weekday} / {name} hopes to meet the {person} again
meat: the butcher sold fresh meat and {food} / the {animal} likes raw meat

buy: {name} will buy a {thing} on {weekday} / do not buy cheap {garment:s} in {city}
by: the {thing} was made by a {person} / {name} stood by the {place}

hour: the train leaves in half an hour / {name} waited a full hour at the {place}
our: our {relative} came back from {city} / this is our {thing} and not yours

mail: the mail arrived late on {weekday} / {name} opened the mail and found a bill
male: a male {animal} is bigger than a female / the nurse was a young male from {city}

tail: the {animal} wagged its tail / a {animal} with a long tail ran past {name}
tale: {name} told us a fairy tale / it is an old tale about a {person} and a {animal}

sail: the ship had a torn sail and a broken mast / we will sail across the lake with {name}
sale: the {thing} is for sale / {name} found cheap {garment:s} at the summer sale

pale: {name} looked ill and pale / her face turned pale when she saw the {person}
pail: {name} carried a pail of water / he filled the pail with milk

plain: {name} wore a plain {garment} / it was a plain and simple {thing}
plane: the plane landed in {city} on {weekday} / {name} missed the plane at the airport

rain: the heavy rain flooded the {place} / we walked through rain and wind for {number} days
reign: the reign of the old king lasted {number} years / peace came during the reign of the queen
rein: the rider pulled the left rein of the horse / hold the horse by the rein

road: the road from {city} is closed / a {animal} crossed the muddy road
rode: {name} rode a horse along the beach / we rode our bicycles past the {place}

role: {name} played the leading role in the film / the actor learned his new role by heart
roll: {name} ate a buttered roll with {food} / a roll of paper fell off the desk

hole: the {animal} dug a deep hole / there is a hole in this {garment}
whole: {name} spent the whole {weekday} in {city} / the whole family came to the {place}

piece: {name} took a piece of cake / the last piece of {food} is yours
peace: the fighting ended and peace returned / the two countries signed a peace treaty in {month}

flower: the {colour} flower grows in the garden / {name} picked a pretty flower for her
flour: mix the flour with sugar and butter / the baker bought a sack of flour

knight: the knight wore armour and carried a sword / a brave knight fought the dragon
night: {name} worked late at night / the {animal:s} sleep all night

bear: a huge brown bear came out of the forest / the bear caught salmon in the river
bare: {name} walked on bare feet / the walls of the {place} were bare and cold

pair: {name} bought a pair of shoes / a new pair of gloves lay on the desk
pear: the ripe pear fell from the tree / {name} peeled an apple and a pear

hair: {name} has long dark hair / the barber cut her hair on {weekday}
hare: the hare ran faster than the tortoise / the hounds chased a brown hare

fair: the judge was fair to both sides / that is not a fair price for the {thing}
fare: {name} paid the bus fare / the taxi fare from {city} was too high

stair: {name} fell on the bottom stair / the last stair creaked under her feet
stare: it is rude to stare at people / the {person} gave {name} a cold stare

steel: the bridge is made of steel and stone / the factory makes iron and steel
steal: the thief tried to steal the {thing} / you must never steal money from {name}

heel: {name} broke the heel of her shoe / there was a hole in the heel of his sock
heal: the wound will heal by {month} / this medicine can heal the sick {animal}

cell: the prisoner sat in a dark cell / the guard locked the cell at {number}
sell: {name} wants to sell the {thing} / we hope to sell our house in {month}

cent: the pencil cost only one cent / {name} paid every cent of the debt
scent: the sweet scent of roses filled the {place} / the dog followed the scent of the fox
sent: {name} sent a letter from {city} / the {person} was sent home on {weekday}

dear: {name} wrote to his dear friend in {city} / my dear friend {name} lost the {thing}
deer: the hunter saw a deer in the woods / a herd of deer grazed near the {place}

break: be careful not to break the {thing} / the {person:s} took a short break for lunch
brake: the driver hit the brake of the car / the bicycle has a broken brake

great: it was a great honour for {name} / {name} is a great {person}
grate: please grate some cheese over the pasta / grate the carrots and peel the onions

made: {name} made a {thing} out of wood / the {thing} was made in {city}
maid: the maid cleaned the rooms of the hotel / a young maid served tea to the queen

main: the main road leads to {city} / the main entrance of the {place} was locked
mane: the lion shook his golden mane / {name} brushed the mane of the pony

wood: the table is made of solid wood / {name} chopped wood for the fire
would: {name} would never {handle} a {thing} / they would like to visit {city} in {month}

threw: {name} threw the {thing} over the fence / the boy threw a stone at the window
through: {name} walked through the {place} / the {animal} looked through the window

nose: {name} has a cold and a red nose / the boxer broke his nose in the fight
knows: nobody knows where {name} lives / the {person} knows how to {handle} {thing:s}

not: {name} did not {handle} the {thing} / it is not safe to travel in {month}
knot: the sailor tied a tight knot in the rope / {name} tried in the dark to undo the knot

board: {name} wrote the answer on the black board / the chess board was covered with dust
bored: the lecture was long and we got bored / {name} was so bored that he fell asleep

die: the plants will die without water / the soldiers were afraid to die
dye: {name} used dye to colour the cloth / the dye turned the wool {colour}

guest: {name} was the guest of honour / every guest brought a present for {name}
guessed: {name} guessed the answer at once / nobody guessed how old {name} was

horse: the rider fell off his horse / a {colour} horse galloped along the beach
hoarse: {name} shouted until her voice was hoarse / the singer had a sore and hoarse throat

key: {name} turned the key in the lock / the key opened every door in the {place}
quay: the ship was tied up at the quay / sailors unloaded the cargo on the quay

lesson: {name} gave a piano lesson in {city} / the teacher began the first lesson at {number}
lessen: these pills will lessen the pain / a strong wind may lessen the heat

loan: the bank gave {name} a loan / he paid back the loan with interest
lone: a lone wolf howled in the hills / one lone {animal} stood on the hill

missed: {name} missed the last bus / the arrow missed its target
mist: a thick mist covered the valley / the boat vanished in the cold mist

muscle: {name} pulled a muscle in his leg / the athlete had strong muscle and bone
mussel: the diver found a mussel and an oyster / {name} ate a mussel from the sea food stall

past: it was half past {number} when {name} arrived / in the past people had no {thing:s}
passed: {name} passed the difficult exam / many years passed before the {person} returned

pause: the speaker made a short pause / press pause to stop the film
paws: the cat licked its paws / the {animal} had mud on its paws

pole: the flag hung from a tall pole / the explorers reached the south pole in {month}
poll: the latest poll shows that voters like {name} / the newspaper held a poll before the election

pray: they kneel and pray in church / the monks pray {number} times a day
prey: the eagle caught its prey / lions hunt their prey at night

principal: the principal of the school called {name} / our school has a new principal
principle: {name} refused on principle / honesty is her first principle

wrap: {name} will wrap the present in paper / please wrap the {food} in foil
rap: the band played rap and jazz / a sharp rap on the door woke {name}

sole: there was gum on the sole of his shoe / {name} was the sole survivor of the crash
soul: they prayed for the soul of the dead king / music is good for body and soul

sweet: the cake was soft and sweet / {name} likes sweet tea with {food}
suite: {name} booked a suite at the hotel / the hotel suite has {number} rooms

throne: the king sat on his golden throne / the prince came to the throne in {month}
thrown: {name} was thrown from the horse / the ball was thrown over the wall

toe: {name} hurt his big toe / she stood on the tip of her toe
tow: the truck will tow the broken car / they had to tow the boat to the harbour

vain: {name} searched in vain for the {thing} / all our efforts were in vain
vein: the nurse found a vein in his arm / a vein carries blood to the heart

waist: she wore a belt around her waist / the water came up to his waist
waste: it is a waste of time and money / do not waste good {food}

beach: children built castles on the sandy beach / {name} walked along the beach in {month}
beech: the carpenter cut down an oak and a beech / the leaves of the beech turned yellow

beat: {name} beat the champion in the final / our team beat theirs by {number} points
beet: {name} cooked a soup of beet and cabbage / the farmer grows beet and potatoes

cord: the lamp has a long electric cord / {name} tied the parcel with cord
chord: the pianist struck the final chord / {name} learned a new chord on the guitar

feet: {name} had cold feet in bed / the wall is {number} feet high
feat: winning {number} times was a great feat / the bridge is a feat of engineering

groan: the {person} gave a deep groan of pain / we heard someone groan in the next room
grown: the boy has grown {number} inches / the tree had grown too tall

hall: {name} waited in the hall of the {place} / the concert hall was full
haul: the fishermen haul in their nets / trucks haul coal to {city}

herd: the farmer keeps a herd of cattle / a herd of elephants crossed the plain
heard: {name} heard the news on {weekday} / nobody had heard of the {person}

sight: the old man lost his sight / it was love at first sight
site: the workers left the building site / {name} visited the site of the battle

stake: {name} drove a wooden stake into the ground / a lot of money was at stake
steak: {name} ordered a steak with potatoes / the steak was rare and juicy

tide: the boats left at high tide / the tide came in and covered the sand
tied: {name} tied his shoes / the {animal} was tied up near the {place}

root: the dentist treated the root of the tooth / money is the root of all evil
route: they took the shortest route / the bus route ends at the {place}

higher: the tower is higher than the church / prices are higher in {city}
hire: they want to hire a new cook / we can hire bicycles in {city}

allowed: smoking is not allowed in the {place} / {name} was allowed to stay up late
aloud: {name} thought aloud / the teacher read the poem aloud

seen: {name} has not been seen since {month} / have you seen the {thing}
scene: the last scene of the play was sad / police came to the scene of the crime

tea: {name} drank a cup of hot tea / the {person} served green tea
tee: the golfer put the ball on the tee / {name} hit the golf ball off the tee

sew: {name} will sew a button on the shirt / she learned to sew and knit
sow: farmers sow wheat in {month} / {name} wants to sow seeds in the garden
so: {name} was so {feeling} that she cried / the {thing} was so heavy that nobody could lift it
"""


def homophone_sets() -> list[dict[str, tuple[str, ...]]]:
    """Each set as member -> its carriers, in the order of the table."""
    sets: list[dict[str, tuple[str, ...]]] = [{}]
    for line in HOMOPHONES.strip().splitlines():
        if not line:
            sets.append({})
            continue
        word, carriers = line.split(": ", 1)
        sets[-1][word] = tuple(carrier.strip() for carrier in carriers.split(" / "))
    return sets
