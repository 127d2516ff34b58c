"""Common English words, split once and for all into those of training and those held out."""

from __future__ import annotations

from zlib import crc32

_WORDS = """
a able about above accept account across act add after again age agree air all allow almost alone
along already also always amount and animal another answer any anyone appear apple area arm army
around arrive art as ask at autumn aunt away baby back bad bag bake ball bank barn base basket bath
be beach bean bear beat beautiful became because become bed bee before began begin behind believe
bell below bench best better between big bird birthday bit black blank blue board boat body bolt
bone book boot border born both bottle bottom bought bowl box boy branch bread break breakfast
bridge bright bring broken brother brought brown brush build building burn bus business busy but
butter button buy by cake call came camera camp can candle cap car card care careful carpet carry
carrot case castle cat catch cattle cause centre certain chain chair chance change chapter charge
cheap check cheese cherry child children choose church circle city class clean clear clerk climb
clock close cloth cloud coast coat coffee cold collect colour come common company complete
condition contain continue cook cool copper copy corn corner correct cost cotton could count
country course cousin cover cow cross crowd cry cup current curtain cut daily dance danger dark
date daughter day dead deal dear decide deep deliver desk detail did die different difficult dinner
direct dirty discover dish distance divide do doctor dog dollar done door double doubt down draw
dream dress drink drive drop dry duck due during dust duty each ear early earth east easy eat edge
effect egg eight either electric eleven else empty end engine enough enter equal even evening event
ever every exact example except expect explain eye face fact fair fall family famous far farm farmer
fast father fear feed feel fence few field fifteen fifty fight figure fill film final find fine
finger finish fire first fish fit five fix flag flat float floor flour flower fly fog follow food
foot for force forest forget fork form forty found four free fresh friday friend from front fruit
full further future game garden gate gather gave general gentle get gift girl give glad glass go
goat gold gone good grain grand grass great green grey ground group grow guard guess guest guide
habit had hair half hall hammer hand handle happen happy harbour hard harvest has hat have hay he
head health hear heart heat heavy height held help hen her here high hill him his hold hole holiday
home honest honey hope horse hospital hot hotel hour house how human hundred hungry hurry hurt ice
idea if important in inch indeed ink inside instead interest into invoice iron island it item jacket
jam january job join joke journey judge juice july jump june just keep kettle key kind king kitchen
knee knew knife knock know ladder lady lake lamp land language large last late later laugh law lay
lead leaf learn least leather leave left leg lemon length less lesson let letter level library lid
lie life lift light like line lion lip list listen little live load local lock log long look lose
lost lot loud love low lucky lunch machine made mail main make man many map march mark market master
match matter may meal mean measure meat meet member metal method middle might mile milk mill mind
mine minute mirror miss mistake mix modern moment monday money month moon more morning most mother
motor mountain mouse mouth move much mud museum music must nail name narrow nation nature near
nearly neck need needle neighbour neither nest net never new news next nice night nine no noise none
noon nor north nose not note nothing notice november now number nut oak object ocean october of off
offer office often oil old on once one onion only open opinion or orange order other our out oven
over own owner packet page paid pain paint pair palace pan paper parcel parent park part party pass
past path pay pea peace pear pen pencil people pepper perfect perhaps person phone photo piano pick
picture piece pig pilot pin pipe place plain plan plant plate platform play please plenty pocket
poem point poor port possible post pot potato pound powder power present press pretty price print
prize problem produce promise proper proud prove public pull pupil pure push put quality quarter
queen question quick quiet quite rabbit radio rail rain raise ran rather reach read ready real
reason receipt receive record red remain remember rent repair repeat reply report rest result return
rice rich ride right ring rise river road rock roof room root rope rose rough round row rule run
rush sack safe said sail salad salt same sand saturday save saw say scale school science scissors
sea season seat second secret see seed seem sell send sense separate september serve seven several
shade shadow shall shape share sharp she sheep sheet shelf shine ship shirt shoe shop shore short
should shoulder show shut sick side sign signal silent silk silver simple since sing sister sit six
size skin skirt sky sleep slip slow small smell smile smoke smooth snow so soap social soft soil
sold soldier solid some son song soon sort sound soup south space speak special speed spend spoon
sport spot spread spring square stable stage stairs stamp stand star start state station stay steam
steel step stick still stock stomach stone stood stop store storm story straight strange straw
stream street strong student study such sudden sugar suit summer sun sunday supper supply sure
surface sweet swim table tail take talk tall tank taste taxi tea teach team tell ten tent test than
thank that the their them then there these they thick thin thing think third thirty this those
though thought thousand thread three through throw thunder thursday ticket tie till time tin tired
to today together tomato tomorrow tonight too took tool tooth top total touch toward towel tower
town toy trade train travel tree trip trouble true trust try tube tuesday turn twelve twenty twice
two uncle under understand until up upon use useful usual valley value various very view village
visit voice wait walk wall want war warm was wash waste watch water wave way we weak weather
wednesday week weight welcome well went were west wet what wheat wheel when where which while white
who whole why wide wife wild will win wind window wine winter wire wise wish with without woman
wonder wood wool word work world worth would write wrong yard year yellow yes yesterday yet you
young your zero zoo
""".split()  # noqa: SIM905  as literals they would fill a page a letter

HELD_OUT = tuple(word for word in _WORDS if crc32(word.encode()) % 7 == 0)
TRAINING = tuple(word for word in _WORDS if crc32(word.encode()) % 7 != 0)
