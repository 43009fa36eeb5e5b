"""Word classes of the large vocabulary, most frequent words first.

Marks: `stop*` doubles its last letter (stopped), `take>took` has an irregular past, `child>children` an
irregular plural. Words that share their sound with another are left to `homophones`, apart from a few whose
partner fits nowhere in the same place.
"""

NOUNS = {
    "person": """
        man>men woman>women child>children teacher farmer doctor soldier student neighbour stranger lawyer
        driver officer painter sailor singer writer baker captain dancer gardener hunter nurse engineer
        policeman>policemen fisherman>fishermen merchant butcher carpenter shepherd tailor waiter musician
        professor scientist secretary librarian detective journalist politician photographer mechanic
        plumber electrician shopkeeper inspector ambassador architect astronomer burglar customer dentist
        governor historian inventor lieutenant magician manager mayor messenger minister monk novelist
        orphan passenger philosopher pilot pirate poet porter postman>postmen priest publisher sculptor
        sergeant servant tourist traveller tutor visitor volunteer wizard beggar cowboy duchess emperor
        hermit juggler peasant pilgrim princess sheriff surgeon apprentice bishop clerk coachman>coachmen
        colonist coward
    """,
    "relative": """
        mother father brother sister uncle cousin grandmother grandfather nephew niece daughter husband
        wife>wives stepfather grandson twin
    """,
    "animal": """
        dog cat cow chicken pig goat rabbit donkey lion tiger elephant monkey fox wolf>wolves camel
        crocodile eagle falcon frog giraffe hedgehog kangaroo leopard lizard mouse>mice mule octopus ostrich
        otter owl panda parrot peacock penguin pigeon puppy rat rooster salamander shark snail snake sparrow
        spider squirrel swan turkey turtle vulture walrus zebra badger beaver buffalo butterfly crab cricket
        dolphin dragonfly duck goose>geese hamster hippopotamus jaguar kitten lamb lobster magpie panther
        pelican porcupine raven rhinoceros scorpion
    """,
    "thing": """
        book box letter bottle basket lamp chair table picture mirror candle hammer blanket pillow umbrella
        bucket kettle ladder suitcase ticket watch camera clock guitar piano violin trumpet drum flute
        bicycle ribbon pencil notebook newspaper magazine diary map magnet medal needle napkin necklace
        bracelet envelope feather football puzzle doll kite balloon toy statue vase carpet curtain cupboard
        cabinet wardrobe sofa mattress shelf>shelves drawer bench barrel crate parcel package wallet purse
        handbag lantern telescope microscope compass computer telephone television radio battery hose engine
        motor wagon chain wheel shovel spade axe saw chisel screwdriver wrench pump rope bell whistle sword
        shield helmet spear cannon rifle knife>knives fork spoon plate bowl teapot saucepan oven stove
        fridge basin towel sponge toothbrush comb razor scarecrow tent hammock anchor paddle canoe raft
        carriage cradle crown diamond emerald ruby pearl coin cheque contract document calendar dictionary
        brochure poster sculpture easel paintbrush crayon tambourine accordion saxophone microphone keyboard
        cushion footstool bookcase chandelier thermometer barometer binocular gadget machine tractor
        lawnmower wheelbarrow trolley
    """,
    "garment": """
        coat hat shirt jacket scarf>scarves sweater dress skirt glove sandal slipper boot helmet uniform
        apron cardigan raincoat waistcoat nightgown bonnet cape cloak
    """,
    "vehicle": """
        car bus train boat ship truck van ferry taxi lorry helicopter tram scooter motorcycle ambulance
        yacht steamer caravan
    """,
    "place": """
        village garden market station kitchen school hospital castle church forest river mountain island
        harbour bridge library museum theatre factory office hotel restaurant cottage farm field stable barn
        temple palace tower prison airport university college bakery garage cellar attic balcony corridor
        courtyard orchard vineyard meadow valley canyon desert jungle swamp lake waterfall fountain cemetery
        cathedral monastery chapel fortress lighthouse windmill warehouse supermarket pharmacy laundry
        laboratory observatory stadium gymnasium playground nursery greenhouse campsite cave tunnel cliff
        volcano glacier canal reservoir suburb square crossroads embassy ballroom bathroom bedroom basement
        workshop studio gallery cinema canteen casino
    """,
    "thought": """
        idea plan story promise answer question problem decision reason secret rumour opinion warning
        suggestion explanation discovery invention experiment mistake accident adventure argument agreement
        announcement ambition behaviour celebration ceremony challenge conversation custom danger debate
        disaster disease dream education election emergency excuse failure friendship habit illness
        imagination journey judgement language legend memory method miracle mystery operation opportunity
        performance prediction punishment rebellion revolution tradition tragedy treasure triumph victory
        wedding quarrel proposal project lecture murder
    """,
}

UNCOUNTABLE = {
    "food": """
        bread cheese butter rice soup salad chocolate pudding honey sugar coffee milk lemonade porridge
        spinach cabbage broccoli cucumber garlic ginger cinnamon vinegar mustard mayonnaise marmalade
        custard yoghurt pasta macaroni spaghetti bacon sausage venison turkey salmon tuna cod lobster
        asparagus celery parsley pepper popcorn toffee caramel vanilla pastry omelette lasagne curry
    """,
    "material": """
        wooden silver iron copper leather plastic glass cotton velvet woollen paper marble bronze silk
        rubber concrete bamboo ivory porcelain
    """,
    "weather": """
        rain snow thunder lightning fog sunshine wind frost hail
    """,
}

VERBS = {
    "handle": """
        carry find>found take>took buy>bought bring>brought see>saw keep>kept lose>lost hold>held paint
        repair borrow deliver notice clean collect polish examine protect replace destroy discover remember
        recognise describe admire inspect measure mention move return open close drop* throw>threw push pull
        lift wash touch watch choose>chose steal>stole hide>hid break>broke burn bury cover decorate design
        display donate drag* empty exchange fasten fetch forget>forgot gather grab* handle import export
        inherit invent label lend>lent mend order own pack photograph pick pinch place possess purchase
        remove rescue scratch search shake>shook shift show>showed smash study swallow test unlock unpack
        use value weigh demand dislike abandon adjust assemble attach capture catch>caught claim count
        cut>cut damage deserve
    """,
    "affect": """
        help follow meet>met thank visit call tell>told trust marry greet invite surprise blame punish amuse
        annoy astonish bother comfort congratulate consult convince cure defeat defend disappoint disturb
        encourage entertain forgive>forgave frighten hug* ignore impress insult interrupt interview kiss
        love miss mock obey offend persuade please praise question rescue respect reward scare tease
        threaten warn welcome worship rob* arrest accuse challenge
    """,
    "travel": """
        walk hurry run>ran travel* drive>drove return climb crawl dance drift escape fly>flew gallop jump
        leap march move race ride>rode rush sail skate slip* swim>swam stumble wander ski hike jog* sneak
        stroll
    """,
    "rest": """
        sleep>slept wait stay laugh cry smile work sing>sang sit>sat stand>stood cough argue complain
        celebrate arrive disappear faint giggle hesitate kneel>knelt listen relax shiver sigh sneeze snore
        struggle suffer tremble vanish weep>wept whisper yawn
    """,
    "think": """
        say>said think>thought believe hope agree promise announce admit* claim complain conclude confess
        declare deny discover dream doubt expect explain fear forget>forgot guess hear>heard imagine insist
        learn mention notice pretend realise remember report reply suggest suspect swear>swore
        understand>understood warn worry
    """,
}

MODIFIERS = {
    "adj_thing": """
        old small big little beautiful heavy broken strange empty expensive cheap useful modern ancient
        dusty dirty shiny rusty ugly enormous tiny huge narrow wide square round hollow fragile ordinary
        precious valuable colourful elegant handsome crooked delicate familiar faded foreign gigantic
        magnificent medieval miniature perfect portable practical priceless ridiculous rotten rough sharp
        slippery smooth solid splendid sticky sturdy stylish unusual useless worthless cracked curious
    """,
    "adj_person": """
        young old tall short kind clever poor rich famous happy friendly brave lazy angry honest polite rude
        quiet gentle stubborn serious stupid cruel careful careless cheerful foolish generous greedy jealous
        lonely nervous patient selfish shy skinny talented timid wicked wise ambitious anxious arrogant
        charming confident eager elderly energetic fearless graceful grumpy helpful humble ignorant
        impatient innocent intelligent loyal mysterious noble obedient ruthless sensible sincere suspicious
    """,
    "adj_place": """
        crowded quiet dark noisy beautiful dangerous peaceful lonely distant narrow busy cold empty famous
        gloomy abandoned ancient charming comfortable deserted fashionable filthy haunted historic hidden
        horrible luxurious magnificent miserable muddy pleasant remote rocky ruined sacred shady spacious
        steep sunny tropical frozen isolated
    """,
    "adj_thought": """
        good bad terrible wonderful important interesting simple difficult brilliant absurd amazing boring
        common complicated convincing crazy dreadful exciting fantastic final foolish forbidden general
        glorious honest impossible incredible independent international logical marvellous necessary obvious
        original perfect popular powerful public reasonable recent remarkable scientific secret shocking
        similar special successful sudden surprising total tragic unexpected unlikely usual vague
    """,
    "feeling": """
        happy tired hungry angry thirsty sad lonely nervous proud afraid worried excited surprised ashamed
        confused delighted desperate disappointed embarrassed exhausted frightened furious grateful guilty
        helpless jealous miserable relieved satisfied sleepy terrified upset
    """,
    "colour": """
        white black green yellow brown purple orange pink violet crimson scarlet turquoise maroon lavender
        golden
    """,
    "manner": """
        quickly slowly carefully quietly suddenly happily easily gently finally secretly angrily anxiously
        bravely brightly calmly cautiously cheerfully cleverly clumsily constantly deliberately desperately
        eagerly elegantly faithfully fiercely foolishly frequently gladly gracefully gratefully greedily
        hastily honestly hungrily immediately innocently instantly kindly lazily loudly mysteriously
        nervously occasionally openly patiently perfectly personally politely promptly proudly rapidly
        rarely reluctantly rudely sadly selfishly seriously sharply silently simply smoothly softly
        stubbornly successfully thoughtfully tightly unexpectedly usually violently warmly wildly wisely
    """,
}

CLOSED = {
    "name": """
        john mary james anna peter susan david laura robert helen thomas alice michael sarah william emma
        george julia richard lucy henry martha edward charlotte daniel victoria andrew elizabeth simon
        rebecca oliver hannah benjamin margaret samuel catherine alexander jennifer jonathan patricia
        christopher barbara nicholas dorothy timothy veronica vincent angela patrick monica gregory pamela
        leonard natalie dominic theresa frederick rosemary raymond stephanie
    """,
    "city": """
        london paris rome berlin vienna madrid boston chicago dublin moscow athens cairo lisbon oslo prague
        venice toronto sydney tokyo bombay havana geneva brussels amsterdam barcelona budapest copenhagen
        edinburgh florence glasgow hamburg helsinki istanbul jakarta jerusalem liverpool manchester
        marseille melbourne montreal munich naples oxford philadelphia stockholm vancouver warsaw washington
        zurich
    """,
    "country": """
        england france italy spain germany ireland scotland russia india china japan egypt canada australia
        brazil mexico norway sweden denmark portugal poland austria hungary argentina morocco kenya nigeria
        indonesia vietnam thailand turkey
    """,
    "number": """
        three five six seven ten twelve twenty nine thirty eleven fifty fifteen forty sixty thirteen ninety
        eighteen seventy sixteen eighty fourteen seventeen nineteen
    """,
    "big_number": """
        hundred thousand million
    """,
    "ordinal": """
        first second third last fifth seventh tenth twelfth
    """,
    "month": """
        january february april june july august september october november december
    """,
    "weekday": """
        monday tuesday wednesday thursday friday saturday sunday
    """,
    "season": """
        summer winter spring autumn
    """,
    "moment": """
        yesterday today tonight sometimes often soon afterwards recently nowadays eventually
    """,
    "where": """
        in near behind inside outside beside above under opposite beyond around
    """,
    "towards": """
        towards into across past around beyond
    """,
    "direction": """
        north south east west northwards
    """,
    "because": """
        because when while although before after until since whenever unless
    """,
    "joiner": """
        and but or yet
    """,
    "pronoun": """
        he she they we i
    """,
    "possessive": """
        his her my your its
    """,
    "could": """
        could should might must will can
    """,
    "quantity": """
        many several some few dozens
    """,
    "opening": """
        however meanwhile fortunately perhaps unfortunately nevertheless therefore moreover certainly
        obviously surprisingly naturally apparently evidently
    """,
}
