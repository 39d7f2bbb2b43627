package graph

import (
	"image"
	"image/color"
	"strings"
	"unicode"
)

// glyph returns the seven rows of a character, five bits each, the left one highest. Small letters are written as capitals; what is not
// here is a box.
func glyph(r rune) [7]byte {
	text, ok := glyphs()[unicode.ToUpper(r)]
	if !ok {
		text = "1F11111111111F"
	}
	var g [7]byte
	for i := range g {
		g[i] = nibble(text[2*i])<<4 | nibble(text[2*i+1])
	}
	return g
}

func nibble(c byte) byte { return byte(strings.IndexByte("0123456789ABCDEF", c)) }

// glyphs are two hexadecimal digits a row, from the top.
func glyphs() map[rune]string {
	return map[rune]string{
		' ': "00000000000000", '0': "0E11131519110E", '1': "040C040404040E", '2': "0E11010204081F", '3': "1F02040201110E", '4': "02060A121F0202",
		'5': "1F101E0101110E", '6': "0608101E11110E", '7': "1F010204080808", '8': "0E11110E11110E", '9': "0E11110F01020C", 'A': "0E11111F111111",
		'B': "1E11111E11111E", 'C': "0E11101010110E", 'D': "1C12111111121C", 'E': "1F10101E10101F", 'F': "1F10101E101010", 'G': "0E11101711110F",
		'H': "1111111F111111", 'I': "0E04040404040E", 'J': "0702020202120C", 'K': "11121418141211", 'L': "1010101010101F", 'M': "111B1515111111",
		'N': "11111915131111", 'O': "0E11111111110E", 'P': "1E11111E101010", 'Q': "0E11111115120D", 'R': "1E11111E141211", 'S': "0F10100E01011E",
		'T': "1F040404040404", 'U': "1111111111110E", 'V': "11111111110A04", 'W': "1111111515150A", 'X': "11110A040A1111", 'Y': "1111110A040404",
		'Z': "1F01020408101F", '.': "00000000000C0C", ',': "000000000C0408", ':': "000C0C000C0C00", '-': "0000001F000000", '+': "0004041F040400",
		'/': "00010204081000", '_': "0000000000001F", '%': "18190204081303", '(': "02040808080402", ')': "08040202020408", '{': "02040408040402",
		'}': "08040402040408", '=': "00001F001F0000", '"': "0A0A0A00000000", '#': "0A0A1F0A1F0A0A", '\'': "0C040800000000", '*': "0004150E150400",
		'@': "0E11010D15150E", '&': "0C12140815120D", '!': "04040404000004", '?': "0E110102040004", '<': "02040810080402", '>': "08040201020408",
		'[': "0E08080808080E", ']': "0E02020202020E", '~': "00000815020000", '|': "04040404040404", ';': "000C0C000C0408",
	}
}

// write sets text from the left upper corner x, y: six pixels a character.
func write(img *image.RGBA, x, y int, text string, c color.RGBA) {
	for _, r := range text {
		for row, bits := range glyph(r) {
			for col := range 5 {
				if bits>>(4-col)&1 == 1 {
					img.Set(x+col, y+row, c)
				}
			}
		}
		x += 6
	}
}
