package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// openURL fetches a file.
func openURL(address string) func(context.Context, *meter) (found, error) {
	return func(ctx context.Context, m *meter) (found, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return found{}, err
		}
		client := http.Client{Transport: m}
		response, err := client.Do(request)
		var said *url.Error
		if errors.As(err, &said) {
			err = said.Err // without the URL, which is known
		}
		if err != nil {
			return found{}, err
		}
		if response.StatusCode != http.StatusOK {
			response.Body.Close()
			return found{}, fmt.Errorf("%s answers %s: want a kernel or a package there", response.Request.URL.Host, response.Status)
		}
		m.expect(response.ContentLength)
		return found{name: path.Base(request.URL.Path), files: response.Body}, nil
	}
}

// openOCI fetches an OCI image: the files of all of its layers, as a container sees them.
func openOCI(ref string) (func(context.Context, *meter) (found, error), error) {
	image, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("%w: want %sHOST/NAME:TAG", err, ociScheme)
	}
	return func(ctx context.Context, m *meter) (found, error) {
		manifest, err := remote.Get(image, remote.WithContext(ctx), remote.WithTransport(m), remote.WithAuthFromKeychain(authn.DefaultKeychain))
		if err != nil {
			return found{}, err
		}
		img, err := ofArch(manifest)
		if err != nil {
			return found{}, err
		}
		layers, err := img.Layers()
		if err != nil {
			return found{}, err
		}
		var total int64
		for _, layer := range layers {
			size, err := layer.Size()
			if err != nil {
				return found{}, err
			}
			total += size
		}
		m.expect(total)
		return found{files: mutate.Extract(img), tree: true}, nil
	}, nil
}

// ofArch chooses, of an image for several architectures, the one for this machine's, or
// the only one that there is.
func ofArch(manifest *remote.Descriptor) (v1.Image, error) {
	if !manifest.MediaType.IsIndex() {
		return manifest.Image()
	}
	index, err := manifest.ImageIndex()
	if err != nil {
		return nil, err
	}
	list, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var fit []v1.Descriptor
	for _, m := range list.Manifests {
		p := m.Platform
		switch {
		case p == nil || p.OS != "linux" || p.Architecture != "amd64" && p.Architecture != "arm64":
		case p.Architecture == runtime.GOARCH:
			return index.Image(m.Digest)
		default:
			fit = append(fit, m)
		}
	}
	if len(fit) == 0 {
		return nil, errors.New("an image for neither linux/amd64 nor linux/arm64")
	}
	return index.Image(fit[0].Digest)
}

// patience is how long nothing may come of a file that is being fetched.
const patience = time.Minute

var errStalled = fmt.Errorf("nothing came for %v", patience)

// meter counts what comes, and ends what nothing comes of any more.
type meter struct {
	say   func(state string)
	alarm *time.Timer
	bytes atomic.Int64
	total atomic.Int64 // 0: not known
	said  time.Time
}

func newMeter(cancel context.CancelCauseFunc, say func(string)) *meter {
	return &meter{say: say, alarm: time.AfterFunc(patience, func() { cancel(errStalled) })}
}

func (m *meter) stop() { m.alarm.Stop() }

// expect takes how much is to come, if that is known.
func (m *meter) expect(bytes int64) {
	m.bytes.Store(0)
	m.total.Store(max(0, bytes))
}

// RoundTrip makes it the transport of a client.
func (m *meter) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		response.Body = m.reader(response.Body)
	}
	return response, err
}

func (m *meter) reader(r io.ReadCloser) io.ReadCloser { return &metered{r, m} }

type metered struct {
	io.ReadCloser
	m *meter
}

func (r *metered) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.m.count(n)
	return n, err
}

// count is of one stream at a time.
func (m *meter) count(n int) {
	m.alarm.Reset(patience)
	got, total := m.bytes.Add(int64(n)), m.total.Load()
	if time.Since(m.said) < 100*time.Millisecond {
		return
	}
	m.said = time.Now()
	state := mib(got)
	if total > 0 {
		state += " of " + mib(total)
	}
	m.say(state)
}
