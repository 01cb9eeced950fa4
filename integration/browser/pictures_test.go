package browser

// Pictures to upload, of about the size that is asked for.

import (
	"bytes"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

type encoder func(io.Writer, image.Image) error

var encoders = map[string]encoder{
	".jpg": func(w io.Writer, m image.Image) error { return jpeg.Encode(w, m, &jpeg.Options{Quality: 95}) },
	".png": png.Encode,
	".gif": func(w io.Writer, m image.Image) error { return gif.Encode(w, m, nil) },
}

// landscape is a sun over hills, under enough grain that it cannot be compressed
// much.
func landscape(side int) image.Image {
	m := image.NewRGBA(image.Rect(0, 0, side*4/3, side))
	for y := range m.Rect.Dy() {
		for x := range m.Rect.Dx() {
			u, v := float64(x)/float64(side), float64(y)/float64(side)
			c := [3]float64{250 - 110*v, 150 + 60*v, 110 + 110*v} // the sky
			if math.Hypot(u-0.9, v-0.42) < 0.13 {
				c = [3]float64{255, 236, 170}
			}
			for i, height := range []float64{0.52, 0.68, 0.84} {
				if k := float64(i); v > height+0.07*math.Sin(u*(5-k)+2*k) {
					c = [3]float64{70 - 18*k, 115 - 22*k, 110 - 30*k}
				}
			}
			grain := rand.Float64()*36 - 18
			p := func(i int) uint8 { return uint8(max(0, min(255, c[i]+grain))) }
			m.SetRGBA(x, y, color.RGBA{p(0), p(1), p(2), 255})
		}
	}
	return m
}

// picture writes a picture whose format is that of the name's extension.
func picture(t *testing.T, name string, size int) (file string, content []byte) {
	t.Helper()
	encode := func(side int) []byte {
		var b bytes.Buffer
		if err := encoders[filepath.Ext(name)](&b, landscape(side)); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for side, tries := 300, 0; ; tries++ {
		content = encode(side)
		ratio := float64(size) / float64(len(content))
		if math.Abs(ratio-1) < 0.03 {
			return write(t, name, content), content
		}
		if tries > 5 {
			t.Fatalf("%s has %d bytes, not some %d", name, len(content), size)
		}
		side = int(float64(side) * math.Sqrt(ratio)) // bytes go by the area, about
	}
}

func write(t *testing.T, name string, content []byte) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
