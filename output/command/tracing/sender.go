package tracing

import (
	"errors"
	"io"
	"time"

	"github.com/pinwatch/pinwatch/output"
	"github.com/pinwatch/pinwatch/output/recording"
	"github.com/pinwatch/pinwatch/tracer/evidence"
	"github.com/pinwatch/pinwatch/tracer/pipeline"
)

// Sender is a sink that sends a recording of the trace out of a guest, by this pinwatch, as
// an evidence.Kernel takes it.
func Sender(to io.Writer, pinwatch string) (pipeline.Sink, error) {
	header, err := recording.NewHeader(pinwatch, true)
	if err != nil {
		return nil, err
	}
	packed, err := recording.Compress(evidence.Sender(to), evidence.TraceEnding, 200*time.Millisecond)
	if err != nil {
		return nil, err
	}
	filter := recording.Everything()
	return sent{output.NewStream(recording.NewWriter(packed), &filter), packed}, header.Write(packed)
}

// sent is a recording that is sent.
type sent struct {
	*output.Stream
	to io.Closer
}

// Close writes the summary, and ends what is sent.
func (s sent) Close(now pipeline.View, lost uint64) error {
	return errors.Join(s.Stream.Close(now, lost), s.to.Close())
}
