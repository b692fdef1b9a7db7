package azure

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/fault"
)

// maxResults is how many blobs are listed unless it is to be fewer.
const maxResults = 5000

// listing is what list is asked for.
type listing struct {
	Marker     string `json:"marker"`
	Prefix     string `json:"prefix"`
	MaxResults int    `json:"maxResults"`
	Include    struct {
		Copy             bool `json:"copy"`
		Metadata         bool `json:"metadata"`
		Snapshots        bool `json:"snapshots"`
		UncommittedBlobs bool `json:"uncommittedBlobs"`
		Deleted          bool `json:"deleted"`
	} `json:"include"`
}

// query returns the question for a page.
func (l listing) query(marker string, most int) string {
	q := url.Values{"restype": {"container"}, "comp": {"list"}, "maxresults": {strconv.Itoa(most)}}
	var include []string
	for _, i := range []struct {
		name   string
		wanted bool
	}{
		{"copy", l.Include.Copy}, {"deleted", l.Include.Deleted}, {"metadata", l.Include.Metadata},
		{"snapshots", l.Include.Snapshots}, {"uncommittedblobs", l.Include.UncommittedBlobs},
	} {
		if i.wanted {
			include = append(include, i.name)
		}
	}
	for name, value := range map[string]string{"prefix": l.Prefix, "marker": marker, "include": strings.Join(include, ",")} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q.Encode()
}

// A blob in a list, in the form that Dapr's component has: the names are those
// of a structure in Microsoft's SDK for Go.
type listed struct {
	Name             string
	Deleted          *bool
	Snapshot         *string
	VersionID        *string `xml:"VersionId"`
	IsCurrentVersion *bool
	Metadata         pairs
	Properties       properties
}

type properties struct {
	AccessTier             *string
	AccessTierChangeTime   *stamp
	AccessTierInferred     *bool
	ArchiveStatus          *string
	BlobSequenceNumber     *int64 `xml:"x-ms-blob-sequence-number"`
	BlobType               *string
	CacheControl           *string `xml:"Cache-Control"`
	ContentDisposition     *string `xml:"Content-Disposition"`
	ContentEncoding        *string `xml:"Content-Encoding"`
	ContentLanguage        *string `xml:"Content-Language"`
	ContentLength          *int64  `xml:"Content-Length"`
	ContentMD5             *string `xml:"Content-MD5"`
	ContentType            *string `xml:"Content-Type"`
	CopyCompletionTime     *stamp
	CopyID                 *string `xml:"CopyId"`
	CopyProgress           *string
	CopySource             *string
	CopyStatus             *string
	CopyStatusDescription  *string
	CreationTime           *stamp `xml:"Creation-Time"`
	DeletedTime            *stamp
	ETag                   *string `xml:"Etag"`
	IncrementalCopy        *bool
	LastModified           *stamp `xml:"Last-Modified"`
	LeaseDuration          *string
	LeaseState             *string
	LeaseStatus            *string
	RemainingRetentionDays *int32
	ServerEncrypted        *bool
}

// stamp is a time, as RFC 1123 has it in XML.
type stamp struct{ time.Time }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *stamp) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		return nil
	}
	s.Time, err = time.Parse(time.RFC1123, string(text))
	return err
}

// pairs are elements of any name.
type pairs map[string]string

// UnmarshalXML implements xml.Unmarshaler.
func (p *pairs) UnmarshalXML(d *xml.Decoder, start xml.StartElement) error {
	var in struct {
		Pairs []struct {
			XMLName xml.Name
			Value   string `xml:",chardata"`
		} `xml:",any"`
	}
	if err := d.DecodeElement(&in, &start); err != nil {
		return err
	}
	for _, pair := range in.Pairs {
		if *p == nil {
			*p = pairs{}
		}
		(*p)[pair.XMLName.Local] = pair.Value
	}
	return nil
}

// list goes through pages until there are as many blobs as are wanted.
func (b *Blobs) list(ctx context.Context, data []byte) (binding.Response, error) {
	var ask listing
	if len(data) > 0 && json.Unmarshal(data, &ask) != nil {
		return binding.Response{}, fault.New(fault.InvalidArgument, "the data want a JSON object with prefix, marker, maxResults and include, or nothing")
	}
	if ask.MaxResults <= 0 || ask.MaxResults > maxResults {
		ask.MaxResults = maxResults
	}
	blobs, marker, pages := []listed{}, ask.Marker, 0
	for {
		a, err := b.storage.do(ctx, request{method: http.MethodGet, query: ask.query(marker, ask.MaxResults-len(blobs))})
		switch {
		case err != nil:
			return binding.Response{}, err
		case a.Status != http.StatusOK:
			return binding.Response{}, a.Err(place)
		}
		var page struct {
			Blobs      []listed `xml:"Blobs>Blob"`
			NextMarker string
		}
		if xml.Unmarshal(a.Body, &page) != nil {
			return binding.Response{}, fault.New(fault.Unavailable, "the answer of the service is not what it should be")
		}
		pages++
		blobs, marker = append(blobs, page.Blobs...), page.NextMarker
		if marker == "" || len(blobs) >= ask.MaxResults {
			break
		}
	}
	return answer(blobs, map[string]string{"marker": marker, "number": strconv.Itoa(len(blobs)), "pagesTraversed": strconv.Itoa(pages)})
}
